"""Reads zip archives in place: the directory at the end once, then members by byte range.

A member (PKWARE's APPNOTE 4.3) consists of a local header of 30 bytes, the name, extra fields (of another length than
in the directory), and the stored or deflated bytes.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from captionbeam.pipelines.fetch.byte_ranges import LISTING
from captionbeam.pipelines.fetch.errors import reading
from captionbeam.pipelines.fetch.reads import with_retries
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.spec import Ignored, SourceSpec, is_image_name
from captionbeam.schemas.errors import ImageError, SourceError
from captionbeam.schemas.records import ImageRef

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
ENCRYPTED = 99  # the method of AES-encrypted members; used here for all encrypted members
_METHOD_NAMES = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", ENCRYPTED: "encrypted"}
_SIGNATURE = b"PK\3\4"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_FLAG_ENCRYPTED, _FLAG_UTF8 = 0x1, 0x800
# Info-ZIP's Unicode Path field: version 1, CRC-32 of the name's bytes in the header, the name in UTF-8.
_UNICODE_PATH, _UNICODE_PATH_START = 0x7075, struct.Struct("<BI")
_NO_KIND = 0xFFFF  # of an extra field: not in use
# An entry of the directory; at _ENTRY_LENGTHS are those of its name, extra fields and comment, which follow it.
_ENTRY_SIGNATURE, _ENTRY_SIZE, _ENTRY_LENGTHS = b"PK\1\2", 46, 28
# Extra fields (times, owner, zip64, NTFS) usually take 20 to 100 bytes; longer ones need a second read.
_EXTRA_GUESS = 256
# The end record takes a few kilobytes and the directory is read at once, so a larger read-ahead is useless.
_BLOCK = 64 << 10


def check_zip(spec: SourceSpec) -> None:
    """Raises SourceError if ``spec.url`` does not end like a zip. Reads its last bytes only."""
    with access.open_container(spec.url, _BLOCK) as stream:
        if not zipfile.is_zipfile(stream):
            raise SourceError(f"source {spec.url!r} is not a zip or is cut short; expected a whole .zip")


def list_zip(spec: SourceSpec) -> Iterator[ImageRef | Ignored]:
    """Yields the images among the members, in the archive's order. Uses about 0.7 KB of memory per member.

    Encrypted members and unknown compression methods are listed too; fetching them reports the error.
    """
    with reading(spec.url):
        members = with_retries(LISTING)(_directory, spec.url)
    for info in members:
        name = _name_of(info)
        if not name.endswith("/"):
            yield _ref(info, name, spec) if is_image_name(name) else Ignored(name)


def likely_span(ref: ImageRef) -> int:
    """Returns the number of bytes from ``ref.offset`` that most likely contain the whole member."""
    return _LOCAL_HEADER.size + len(ref.image_id.encode()) + _EXTRA_GUESS + ref.length


def whole_span(ref: ImageRef, raw: memoryview) -> int:
    """Returns the exact number of bytes, from the local header at the start of ``raw``; 0 if there is no header."""
    if len(raw) < _LOCAL_HEADER.size or raw[:4] != _SIGNATURE:
        return 0
    return _data_start(raw) + ref.length


def unpack(ref: ImageRef, raw: memoryview) -> bytes:
    """Returns the member's content. ``raw`` starts at its local header.

    Raises ImageError: ``truncated``, or ``decode`` if the bytes do not match the directory.
    """
    start = _data_start(raw)
    packed = raw[start : start + ref.length]
    if len(packed) < ref.length:
        raise _failure("truncated", ref, f"{len(packed)} of {ref.length} bytes are there")
    data = bytes(packed) if ref.method == STORED else _inflate(ref, packed)
    if len(data) != ref.size:
        raise _failure("decode", ref, f"holds {len(data)} bytes, not {ref.size} as the archive says")
    if f"{zlib.crc32(data):08x}" != (ref.version or "").partition("-")[0]:
        raise _failure("decode", ref, "its checksum is not the one in the archive's directory")
    return data


def refusal(ref: ImageRef, max_bytes: int) -> ImageError | None:
    """Returns the error of a member that will not be read; None if it will be."""
    if ref.method not in (STORED, DEFLATED):
        name = _METHOD_NAMES.get(ref.method, f"of method {ref.method}")
        return _failure("unsupported", ref, f"is {name}; expected stored or deflated")
    if max(ref.size, ref.length) > max_bytes:
        return _failure("too_large", ref, f"has {ref.size} bytes; at most {max_bytes} are read")
    return None


def _directory(url: str) -> list[zipfile.ZipInfo]:
    try:
        with access.open_stream(url, _BLOCK) as stream, zipfile.ZipFile(_Mended(stream)) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, struct.error) as err:
        raise SourceError(f"source {url!r} is not a readable zip: {err}") from err
    except UnicodeDecodeError as err:
        raise SourceError(f"source {url!r} has a name that is not the UTF-8 it claims: {err}") from err
    except NotImplementedError as err:
        raise SourceError(f"source {url!r} is a zip of a kind that Python cannot read: {err}") from err


def _name_of(info: zipfile.ZipInfo) -> str:
    """Returns the member's name, the same on every Python version.

    The encoding is UTF-8 if its flag is set; else the Unicode Path field is used if it matches the name's bytes; else
    UTF-8, which many programs write without the flag; else code page 437.
    """
    name = info.orig_filename
    if not info.flag_bits & _FLAG_UTF8:
        raw = name.encode("cp437")
        paths = (field for _, kind, field in _fields(info.extra) if kind == _UNICODE_PATH)
        name = _path_in(next(paths, b""), raw)
        if not name:
            with suppress(UnicodeDecodeError):
                name = raw.decode("utf-8")
        name = name or info.orig_filename
    return name.partition("\0")[0]


def _fields(extra: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields the offset, kind and content of each extra field."""
    start = 0
    while start + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, start)
        yield start, kind, extra[start + 4 : start + 4 + length]
        start += 4 + length


def _path_in(field: bytes, raw: bytes) -> str:
    """Returns the name in a Unicode Path field; '' if the field is damaged or belongs to another name than ``raw``."""
    try:
        version, crc = _UNICODE_PATH_START.unpack_from(field)
        fits = version == 1 and crc == zlib.crc32(raw)
        return field[_UNICODE_PATH_START.size :].decode("utf-8") if fits else ""
    except (struct.error, UnicodeDecodeError):
        return ""


class _Mended:
    """A zip's stream without useless Unicode Path fields. For a damaged one, Python 3.12 refuses the whole zip."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        return _mend(data) if _UNICODE_PATH.to_bytes(2, "little") in data else data


def _mend(data: bytes) -> bytes:
    """Returns ``data`` with other kinds for useless Unicode Path fields if it is a directory."""
    mended, entry = bytearray(data), 0
    while data.startswith(_ENTRY_SIGNATURE, entry) and entry + _ENTRY_SIZE <= len(data):
        lengths = struct.unpack_from("<3H", data, entry + _ENTRY_LENGTHS)
        name = entry + _ENTRY_SIZE
        extra, comment = name + lengths[0], name + lengths[0] + lengths[1]
        for start, kind, field in _fields(data[extra:comment]):
            if kind == _UNICODE_PATH and not _path_in(field, data[name:extra]):
                struct.pack_into("<HH", mended, extra + start, _NO_KIND, len(field))
        entry = comment + lengths[2]
    return bytes(mended)


def _ref(info: zipfile.ZipInfo, name: str, spec: SourceSpec) -> ImageRef:
    return ImageRef(
        image_id=name,
        uri=spec.url,
        source=spec.name,
        version=f"{info.CRC:08x}-{info.file_size}",
        kind="zip",
        offset=info.header_offset,
        length=info.compress_size,
        method=ENCRYPTED if info.flag_bits & _FLAG_ENCRYPTED else info.compress_type,
        size=info.file_size,
    )


def _data_start(raw: memoryview) -> int:
    if len(raw) < _LOCAL_HEADER.size:
        raise ImageError("truncated", "fetch", "the archive ends before the member")
    signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(raw)
    if signature != _SIGNATURE:
        raise ImageError("decode", "fetch", "no member begins where the archive's directory says")
    return int(_LOCAL_HEADER.size + name_length + extra_length)


def _inflate(ref: ImageRef, packed: memoryview) -> bytes:
    """Decompresses a member. Output is limited to one byte more than the declared size."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(packed, ref.size + 1)
    except zlib.error as err:
        raise _failure("decode", ref, f"cannot be inflated: {err}") from err
    if len(data) < ref.size and not stream.eof:
        raise _failure("truncated", ref, f"its deflated stream stops after {len(data)} of {ref.size} bytes")
    return data


def _failure(code: str, ref: ImageRef, message: str) -> ImageError:
    return ImageError(code, "fetch", f"{ref.location}: {message}")
