"""Reads tar archives in place. A tar has no directory, so listing reads header after header."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from captionbeam.pipelines.fetch.urls import printable
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.spec import Columns, Ignored, SourceSpec, is_image_name
from captionbeam.pipelines.sources.tables.keeper import Keeper
from captionbeam.schemas.errors import ImageError, SourceError
from captionbeam.schemas.records import ImageRef

COMPRESSED_SUFFIXES = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4",
)  # fmt: skip
# Headers lie between the images, so listing streams the whole archive. Large blocks keep requests few.
_BLOCK = 8 << 20
_HEADER_BLOCK = 64 << 10
_LARGEST_JSON = 1 << 20  # bytes
_TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def check_tar(spec: SourceSpec) -> None:
    """Raises SourceError if ``spec.url`` does not start like a tar."""
    with access.open_container(spec.url, _HEADER_BLOCK) as stream, _opened(stream, spec.url):
        return


def list_tar(spec: SourceSpec) -> Iterator[ImageRef | Ignored | Columns]:
    """Yields the images among the members, in the archive's order, then the kept columns.

    Links and sparse files are listed too (``method`` is their type); fetching them reports the error. Columns are kept
    from JSON beside an image, as WebDataset has it: members of one sample follow each other, and their names differ
    after the first dot only. A member ``.json`` without an object is passed over like other files.
    """
    keeper = Keeper(spec)
    sample, images, values = "", list[ImageRef](), dict[str, Any]()
    with access.open_container(spec.url, _BLOCK) as stream, _opened(stream, spec.url) as archive:
        for info in _members(archive, spec.url):
            if info.isdir():
                continue
            if spec.keep and _sample(info.name) != sample:
                yield from _with_columns(images, keeper, values)
                sample, images, values = _sample(info.name), [], {}
            if is_image_name(info.name):
                images.append(_ref(info, spec))
            elif spec.keep and info.name.lower().endswith(".json"):
                found = _json(archive, info)
                values |= found or {}
                if found is None:
                    yield Ignored(printable(info.name))
            else:
                yield Ignored(printable(info.name))
            if not spec.keep:
                yield from images
                images.clear()
        yield from _with_columns(images, keeper, values)
        _check_end(archive, stream, spec.url)
    yield from keeper.columns()


def refusal(ref: ImageRef, max_bytes: int) -> ImageError | None:
    """Returns the error of a member that will not be read; None if it will be."""
    if ref.method:
        what = _TYPES.get(bytes([ref.method]), f"of type {chr(ref.method)!r}")
        return ImageError("unsupported", "fetch", f"{ref.location}: is {what}; expected a regular file")
    if ref.length > max_bytes:
        message = f"{ref.location}: has {ref.length} bytes; at most {max_bytes} are read"
        return ImageError("too_large", "fetch", message)
    return None


def unpack(ref: ImageRef, raw: memoryview) -> bytes:
    """Returns the member's content. Raises ImageError (``truncated``)."""
    if len(raw) < ref.length:
        message = f"{ref.location}: {len(raw)} of {ref.length} bytes are there"
        raise ImageError("truncated", "fetch", message)
    return bytes(raw[: ref.length])


def _sample(name: str) -> str:
    """Returns what the members of one WebDataset sample have in common: the name up to its first dot."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _with_columns(
    images: Sequence[ImageRef], keeper: Keeper, values: Mapping[str, Any]
) -> Iterator[ImageRef]:
    for ref in images:
        yield ref._replace(columns=keeper.text(values, f"member {ref.image_id!r}"))


def _json(archive: tarfile.TarFile, info: tarfile.TarInfo) -> dict[str, Any] | None:
    """Returns a member's JSON object; None if it holds none."""
    member = archive.extractfile(info) if info.isreg() and info.size <= _LARGEST_JSON else None
    try:
        values = json.loads(member.read() if member is not None else b"")
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _opened(stream: BinaryIO, url: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape")
    except tarfile.TarError as err:
        raise SourceError(f"source {url!r} is not a readable tar: {err}") from err


def _members(archive: tarfile.TarFile, url: str) -> Iterator[tarfile.TarInfo]:
    try:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # saves memory with millions of members
            yield info
    except tarfile.TarError as err:
        raise SourceError(f"source {url!r} is cut short or damaged: {err}") from err


def _check_end(archive: tarfile.TarFile, stream: BinaryIO, url: str) -> None:
    """Raises SourceError unless the archive ends with a block of zeros. tarfile takes a damaged header as the end."""
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        what = "a damaged header" if block else "no end marker"
        raise SourceError(f"source {url!r} has {what} at byte {archive.offset}; expected a whole tar")


def _ref(info: tarfile.TarInfo, spec: SourceSpec) -> ImageRef:
    regular = info.isreg() and not info.issparse()
    kind = info.type if not info.issparse() else tarfile.GNUTYPE_SPARSE
    return ImageRef(
        image_id=printable(info.name.removeprefix("./")),
        uri=spec.url,
        source=spec.name,
        version=f"{info.size}-{info.mtime}",
        kind="tar",
        offset=info.offset_data,
        length=info.size,
        method=0 if regular else kind[0],
    )
