"""Keeps stores and sources apart: a store is not a source of images, and must not lie in a listed source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence

from fsspec.utils import glob_translate

from captionbeam.pipelines.fetch.urls import filesystem, is_http
from captionbeam.pipelines.sources import folders
from captionbeam.pipelines.sources.spec import source_name
from captionbeam.schemas.errors import RequestError, SourceError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

_FOLDERS = {"data", "index", "failures", "manifests", "deletes", "plans", "snapshots"}
_EXAMPLE = "data/0.parquet"  # path in a store that a listing could take as a source


def refuse_store(name: str, url: str) -> None:
    """Raises SourceError if the folder ``url`` is a store, or a folder of a store."""
    above, _, last = url.rpartition("/")
    for place in (url, above) if last in _FOLDERS else (url,):
        kind = _kind(place)
        if kind == "features":
            raise SourceError(
                f"source {name!r} is a store of features, not of pictures; expected --features {place}, or the pictures"
            )
        if kind:
            raise SourceError(f"source {name!r} is a store of {kind}, not of pictures; expected the pictures")


def refuse_store_files(name: str, urls: Sequence[str]) -> None:
    """Raises SourceError if one of the containers ``urls`` is a file of a store."""
    for folder in dict.fromkeys(url.rpartition("/")[0] for url in urls):
        if folder.rpartition("/")[2] in _FOLDERS:
            refuse_store(name, folder)


def _kind(url: str) -> str:
    if is_http(url) or not layout.snapshot_ids(url):
        return ""
    newest = layout.newest_snapshot(url)
    return newest.kind if newest else ""


def refuse_output(output: str, names: Iterable[str]) -> None:
    """Raises RequestError if a store at ``output`` would lie in one of the sources ``names``."""
    place = _real(source_name(output))
    for name in names:
        if _sees(_real(name), place):
            raise RequestError(
                f"--output {output} lies in the source {name}, whose listing would take the store for a part of it; "
                "expected a folder elsewhere"
            )


def _sees(source: str, place: str) -> bool:
    """Returns whether listing ``source``, a folder or a pattern, would include ``place`` or files of a store there."""
    if not folders.is_glob(source):
        return place == source or place.startswith(f"{source}/")
    fits = re.compile(glob_translate(source)).match
    parts = place.split("/")
    above = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return any(fits(one) for one in (f"{place}/{_EXAMPLE}", *above))


def _real(url: str) -> str:
    """Returns ``url`` with links resolved if it is a local path; of a pattern, links before its first wildcard."""
    fs, path = filesystem(url)
    if not files.is_local(fs):
        return url
    if not folders.is_glob(path):
        return os.path.realpath(path)
    root = folders.glob_root(path)
    below = path.split("/")[root.count("/") + 1 :]
    return "/".join([glob.escape(os.path.realpath(root)), *below])
