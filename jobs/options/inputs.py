"""Checks of local inputs before modules with Beam and torch are imported, which take seconds.

Each takes the value of an option and raises the RequestError of the work itself. The modules are imported where they
are used, since most commands need few of them.
"""

from __future__ import annotations

from typing import Any

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import options_of
from captionbeam.schemas.storage import files


def check_inputs(options: Any) -> None:
    """Checks all options with ``opens`` that name local files or folders. Raises RequestError."""
    for field, found in options_of(options):
        value = getattr(options, field.name)
        for url in value if isinstance(value, tuple) else (value,):
            if found.opens and url and files.scheme(url) in ("", "file", "local"):
                found.opens(url)


def source(url: str) -> None:
    """Raises SourceError if the SOURCE does not exist."""
    from captionbeam.pipelines.sources.spec import check_exists

    check_exists(url)


def store(url: str) -> None:
    """Raises StoreError if the store has no such snapshot."""
    from captionbeam.schemas import Store

    Store.open(url)


def file(url: str) -> None:
    """Raises SourceError if there is no such file or folder."""
    if not files.exists(url):
        from captionbeam.pipelines.sources import access, spec

        access.file_version(spec.source_name(url))


def ids(url: str) -> None:
    """Raises RequestError if the file has no image ids."""
    from captionbeam.jobs.options.shared import read_ids

    read_ids(url)


def components(url: str) -> None:
    """Raises RequestError if there is no file of components."""
    if not files.exists(url):
        from captionbeam.schemas.formats.components import read_components

        read_components(url)


def weights(value: str) -> None:
    """Raises RequestError if there is no such file; published names are in capitals."""
    url = value.partition("#")[0]
    if not value.isupper() and not files.exists(url):
        raise RequestError(f"weights {url!r} cannot be read (there is no such file); expected a file or URL")


def encoder(name: str) -> None:
    """Raises RequestError if the folder of an ``hf:PATH`` has no configuration, unless it may be a name on the hub."""
    from captionbeam.capmodel.captioners.huggingface.folders import CONFIG, ON_THE_HUB
    from captionbeam.capmodel.encoders.names import HUGGING_FACE

    path = name.removeprefix(HUGGING_FACE)
    if name != path and not ON_THE_HUB.fullmatch(path) and not files.exists(files.join(path, CONFIG)):
        raise RequestError(f"{path!r} has no {CONFIG}; expected a folder that save_pretrained wrote")


def bundle(url: str) -> None:
    """Raises BundleError if the folder is no bundle."""
    from captionbeam.capmodel.bundles.contents import read_manifest

    read_manifest(url)


def captions(url: str) -> None:
    """Raises RequestError if there is no caption file; which member of a zip is read is the work's to find."""
    from captionbeam.pipelines.tokens.caption_files import find_captions

    if not url.lower().endswith(".zip") or not files.exists(url):
        find_captions(url)
