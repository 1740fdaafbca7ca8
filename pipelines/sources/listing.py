"""From a source to its images: split it into containers, list each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from captionbeam.pipelines.sources import coco, folders, lists, parquet, tars, zips
from captionbeam.pipelines.sources.spec import Counted, Ignored, SourceSpec
from captionbeam.schemas.records import ImageRef

_LISTERS: dict[str, Callable[[SourceSpec], Iterator[ImageRef | Ignored | Counted]]] = {
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
    "coco": coco.list_coco,
}


def split_source(spec: SourceSpec) -> Iterator[SourceSpec]:
    """The parts of a source that can be listed side by side; together they hold what it holds."""
    if spec.kind == "folder":
        yield from folders.split_folder(spec)
    else:
        yield spec


def split_part(spec: SourceSpec) -> Iterator[SourceSpec]:
    """The parts of a part: on another worker than the one that split its source, as many of these may be large."""
    if spec.kind == "keys":
        yield from folders.split_range(spec)
    else:
        yield spec


def list_images(spec: SourceSpec) -> Iterator[ImageRef | Ignored | Counted]:
    """The images of one container, and what else is in it; of a report's file, how much that was.

    Raises SourceError, SystemicError.
    """
    return _LISTERS[spec.kind](spec)
