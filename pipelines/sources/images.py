"""Reads the bytes of references: many images concurrently, neighbours in a container with one range.

An error of one image is returned as its result, for the caller to write a failure row. Errors that do not concern one
image (credentials, a full or broken disk, a missing container) are raised.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace

from fsspec.utils import merge_offset_ranges

from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import ByteRange, FetchOptions
from captionbeam.pipelines.fetch.errors import raise_if_gone
from captionbeam.pipelines.fetch.http import too_large
from captionbeam.pipelines.fetch.reads import read_ranges
from captionbeam.pipelines.sources import tars, zips
from captionbeam.pipelines.sources.access import file_version
from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.parquet_cells import read_cells
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import ImageError, SourceError
from captionbeam.schemas.records import ImageRef

# Members closer than this are read together: 64 KiB more cost less than another request.
_GAP = 64 << 10
# Maximum length of one read: long enough to amortise the request, short enough for several in memory.
_LONGEST_READ = 8 << 20

_CELL = re.compile(r"(.*)#row_group=(\d+)&row=(\d+)&column=(.*)", re.DOTALL)

Result = bytes | ImageError
DEFAULTS = FetchOptions()


def fetch(refs: Sequence[ImageRef], options: FetchOptions = DEFAULTS) -> list[Result]:
    """Returns the bytes of each image in order, or the error.

    Raises SystemicError, and SourceError for a missing container or a server without byte ranges.
    """
    results: dict[int, Result] = {}
    for kind in dict.fromkeys(ref.kind for ref in refs):
        if kind not in _READERS:
            known = ", ".join(_READERS)
            raise ValueError(f"references of kind {kind!r} hold no image; expected one of {known}")
        mine = [i for i, ref in enumerate(refs) if ref.kind == kind]
        results.update(zip(mine, _READERS[kind]([refs[i] for i in mine], options), strict=True))
    return [results[i] for i in range(len(refs))]


def fetch_locations(locations: Sequence[str], options: FetchOptions = DEFAULTS) -> list[Result]:
    """Returns the bytes or error for each location in order. Each container is listed once.

    Raises SystemicError.
    """
    refs = [parse_location(location) for location in locations]
    found: list[Result] = [ImageError("not_found", "fetch", f"{name}: is not there") for name in locations]
    for container in dict.fromkeys((ref.kind, ref.uri) for ref in refs):
        mine = [i for i, ref in enumerate(refs) if (ref.kind, ref.uri) == container]
        for i, result in _fetch_from(container, {i: refs[i] for i in mine}, options).items():
            found[i] = result
    return found


def parse_location(location: str) -> ImageRef:
    """Returns a reference to ``location``: complete for files and Parquet rows, without coordinates for members."""
    kind, separator, rest = location.partition("://")
    if separator and kind in ("zip", "tar") and "::" in rest:
        member, _, uri = rest.rpartition("::")  # '::' may occur in a member's name, not in a source's URL
        return ImageRef(member, uri, uri, None, kind)
    if cell := _CELL.fullmatch(location):
        uri, row_group, row, column = cell.groups()
        return ImageRef(location, uri, uri, None, "parquet", int(row_group), int(row), column=column)
    return ImageRef(location, location, location, None)


def _fetch_files(refs: Sequence[ImageRef], options: FetchOptions) -> list[Result]:
    def read(wanted: list[ImageRef]) -> list[Result]:
        found = read_ranges([ByteRange(ref.uri) for ref in wanted], options)
        return [_whole(ref, data) for ref, data in zip(wanted, found, strict=True)]

    return _fetch_wanted(refs, lambda ref: _file_refusal(ref, options), read)


def _fetch_zipped(refs: Sequence[ImageRef], options: FetchOptions) -> list[Result]:
    def read(wanted: list[ImageRef]) -> list[Result]:
        raws = _read_merged(wanted, [zips.likely_span(ref) for ref in wanted], options)
        _reread_short(wanted, raws, options)
        return [_member(ref, raw, zips.unpack) for ref, raw in zip(wanted, raws, strict=True)]

    return _fetch_wanted(refs, lambda ref: zips.refusal(ref, options.max_bytes), read)


def _fetch_tarred(refs: Sequence[ImageRef], options: FetchOptions) -> list[Result]:
    def read(wanted: list[ImageRef]) -> list[Result]:
        raws = _read_merged(wanted, [ref.length for ref in wanted], options)
        return [_member(ref, raw, tars.unpack) for ref, raw in zip(wanted, raws, strict=True)]

    return _fetch_wanted(refs, lambda ref: tars.refusal(ref, options.max_bytes), read)


def _fetch_wanted(
    refs: Sequence[ImageRef],
    refuse: Callable[[ImageRef], ImageError | None],
    read: Callable[[list[ImageRef]], list[Result]],
) -> list[Result]:
    refusals = [_missing(ref) or refuse(ref) for ref in refs]
    found = iter(read([ref for ref, refusal in zip(refs, refusals, strict=True) if refusal is None]))
    return [refusal or next(found) for refusal in refusals]


def _missing(ref: ImageRef) -> ImageError | None:
    """Returns the error of a member that its container does not have any more: one without an offset."""
    return ImageError("not_found", "fetch", f"{ref.location}: is not there") if ref.offset < 0 else None


def _file_refusal(ref: ImageRef, options: FetchOptions) -> ImageError | None:
    if not ref.uri:
        return ImageError("not_found", "fetch", f"{ref.image_id}: its list names no URI for it")
    if not options.allow_private and (denied := address_guard.refusal(ref, options.trusted)):
        return denied
    if ref.length == 0:
        return _empty(ref)
    if ref.length > options.max_bytes:
        return too_large(ref.uri, options.max_bytes)
    return None


def _whole(ref: ImageRef, data: Result) -> Result:
    if isinstance(data, ImageError):
        return data
    if not data:
        return _empty(ref)
    if len(data) < ref.length:
        return ImageError("truncated", "fetch", f"{ref.uri}: has {len(data)} of {ref.length} bytes")
    return data


def _member(ref: ImageRef, raw: memoryview | ImageError, unpack: Callable[..., bytes]) -> Result:
    if isinstance(raw, ImageError):
        return raw
    try:
        data = unpack(ref, raw)
    except ImageError as err:
        return err
    return data or _empty(ref)


def _empty(ref: ImageRef) -> ImageError:
    return ImageError("empty", "fetch", f"{ref.location}: has no bytes")


def _reread_short(
    refs: Sequence[ImageRef], raws: list[memoryview | ImageError], options: FetchOptions
) -> None:
    """Reads members again whose local header is longer than estimated, and updates ``raws``."""
    pairs = zip(refs, raws, strict=True)
    ranges = [0 if isinstance(raw, ImageError) else zips.whole_span(ref, raw) for ref, raw in pairs]
    short = [i for i, ref in enumerate(refs) if ranges[i] > zips.likely_span(ref)]
    again = _read_merged([refs[i] for i in short], [ranges[i] for i in short], options)
    for i, raw in zip(short, again, strict=True):
        raws[i] = raw


def _read_merged(
    refs: Sequence[ImageRef], lengths: Sequence[int], options: FetchOptions
) -> list[memoryview | ImageError]:
    """Returns ``lengths`` bytes from each reference's offset, or fewer at the container's end."""
    ends = [ref.offset + length for ref, length in zip(refs, lengths, strict=True)]
    merged = merge_offset_ranges(
        [ref.uri for ref in refs], [ref.offset for ref in refs], ends, max_gap=_GAP, max_block=_LONGEST_READ
    )
    ranges = [ByteRange(*part) for part in zip(*merged, strict=True)]
    named = address_guard.origins(ref.uri for ref in refs)  # containers are sources, which the user named
    read = read_ranges(ranges, replace(options, allow_private=True, trusted=named))
    for part, data in zip(ranges, read, strict=True):
        if isinstance(data, ImageError):
            raise_if_gone(data, part.url)
    begins = [(part.url, part.start) for part in ranges]
    return [
        _cut(read[k], ref.offset - ranges[k].start, length)
        for ref, length in zip(refs, lengths, strict=True)
        for k in [bisect_right(begins, (ref.uri, ref.offset)) - 1]
    ]


def _cut(data: Result, start: int, length: int) -> memoryview | ImageError:
    return data if isinstance(data, ImageError) else memoryview(data)[start : start + length]


def _fetch_from(
    container: tuple[str, str], wanted: dict[int, ImageRef], options: FetchOptions
) -> dict[int, Result]:
    try:
        wanted = _with_coordinates(container, wanted)
        return dict(zip(wanted, fetch(list(wanted.values()), options), strict=True))
    except SourceError as err:
        return {i: ImageError("not_found", "fetch", str(err)) for i in wanted}


def _with_coordinates(container: tuple[str, str], wanted: dict[int, ImageRef]) -> dict[int, ImageRef]:
    """Returns members with the coordinates from their container's listing, and rows with their file's version."""
    kind, uri = container
    if kind == "parquet":
        version = file_version(uri)
        return {i: ref._replace(version=f"{version}:{ref.length}") for i, ref in wanted.items()}
    if kind == "file":
        return wanted
    members = (ref for ref in list_images(SourceSpec(uri, kind, uri)) if isinstance(ref, ImageRef))
    names = {ref.image_id for ref in wanted.values()}
    there: dict[str, ImageRef] = {}
    for ref in members:
        if ref.image_id in names:
            there.setdefault(ref.image_id, ref)
    return {i: there[ref.image_id] for i, ref in wanted.items() if ref.image_id in there}


_READERS: dict[str, Callable[[Sequence[ImageRef], FetchOptions], list[Result]]] = {
    "file": _fetch_files,
    "zip": _fetch_zipped,
    "tar": _fetch_tarred,
    "parquet": read_cells,
}
