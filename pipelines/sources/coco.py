"""COCO annotation files: ``images`` with ``id`` and ``file_name`` relative to an image root."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from captionbeam.pipelines.sources import access, lists
from captionbeam.pipelines.sources.errors import reading
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

_TRIED = 8


def list_coco(spec: SourceSpec) -> Iterator[ImageRef]:
    """Yields one image per entry, in the file's order. The image id is COCO's ``id`` as text."""
    for image in read_images(spec.url):
        uri = lists.resolve(image["file_name"], spec.root)
        yield lists.ref_of(uri, str(image["id"]), spec)


def check_coco(spec: SourceSpec) -> None:
    """Raises SourceError if the file is no COCO annotation file, or if none of its first images exists.

    Checks images below the root only, as absolute names in the file could refer to any location.
    """
    names = [image["file_name"] for image in read_images(spec.url)[:_TRIED]]
    below = [name for name in names if not lists.is_absolute(name) and ".." not in name.split("/")]
    first = [lists.resolve(name, spec.root) for name in below]
    if first and not any(_is_there(uri) for uri in first):
        raise SourceError(
            f"source {spec.url!r} names images like {first[0]!r}, which is not there; "
            "expected the folder they lie in as image root"
        )


def read_images(url: str) -> list[dict[str, Any]]:
    """Returns the entries of ``images``, each with ``id`` and ``file_name``. Raises SourceError."""
    with reading(url):
        try:
            content = files.read_json(url)
        except ValueError as err:
            raise SourceError(f"source {url!r} is not readable JSON: {err}") from err
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise SourceError(f"source {url!r} lists no images; expected a COCO annotation file with 'images'")
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            raise SourceError(f"source {url!r} has the image {image!r}; expected 'id' and 'file_name' in it")
    return images


def _is_there(uri: str) -> bool:
    with reading(uri):
        try:
            access.stat_url(uri)
        except FileNotFoundError:
            return False
    return True
