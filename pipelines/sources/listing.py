"""Splits sources into containers and lists the images of each container."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from captionbeam.pipelines.sources import folders, lists, parquet, tars, zips
from captionbeam.pipelines.sources.spec import Columns, Counted, Ignored, SourceSpec
from captionbeam.schemas.records import ImageRef

_LISTERS: dict[str, Callable[[SourceSpec], Iterator[ImageRef | Ignored | Counted | Columns]]] = {
    "folder": folders.list_folder,
    "files": folders.list_folder,
    "keys": folders.list_range,
    "inventory": folders.list_inventory,
    "glob": folders.list_glob,
    "file": folders.list_file,
    "zip": zips.list_zip,
    "tar": tars.list_tar,
    "parquet": parquet.list_parquet,
    "list": lists.list_rows,
    "coco": lists.list_coco,
}


def split_source(spec: SourceSpec) -> Iterator[SourceSpec]:
    """Yields the parts of a source, which can be listed in parallel and together make up the source."""
    if spec.kind == "folder":
        yield from folders.split_folder(spec)
    else:
        yield spec


def split_part(spec: SourceSpec) -> Iterator[SourceSpec]:
    """Splits a part further. It runs on other workers than ``split_source``, because many parts may be large."""
    if spec.kind == "keys":
        yield from folders.split_range(spec)
    else:
        yield spec


def list_images(spec: SourceSpec) -> Iterator[ImageRef | Ignored | Counted | Columns]:
    """Yields the images and ignored files of one container, its kept columns, and an inventory file's counts.

    Raises SourceError, SystemicError.
    """
    return _LISTERS[spec.kind](spec)
