"""Broken pictures and tricky archives, each with the outcomes that are right for it.

An outcome is ``row``, or the code of a failure. The same seed gives the same cases.
"""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

DAMAGED = frozenset({"row", "truncated", "decode", "unsupported", "too_large"})
CUT = frozenset({"truncated", "row"})  # a row, where only what follows the picture was cut off
CUT_LOOSELY = CUT | {"decode"}  # formats that do not say where they end
FORMATS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {"quality": 88}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {"quality": 80}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
)


class Case(NamedTuple):
    """A file ``name`` with ``data``; ``right`` are its outcomes. ``member`` has what a zip says of it instead."""

    name: str
    data: bytes
    right: frozenset[str]
    member: Mapping[str, Any] = MappingProxyType({})


class Original(NamedTuple):
    """A whole picture as a file of a format."""

    kind: str
    data: bytes


def originals(pictures: Sequence[Image.Image], side: int = 320) -> list[Original]:
    """Each picture, at most ``side`` pixels wide and high, in every format."""
    found = []
    for picture in pictures:
        small = picture.convert("RGB")
        small.thumbnail((side, side))
        for kind, mode, options in FORMATS:
            stream = io.BytesIO()
            _in_mode(small, mode).save(stream, kind, **options)
            found.append(Original(kind, stream.getvalue()))
    return found


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return picture.convert(mode)


def damaged(whole: Sequence[Original], count: int, seed: int) -> Iterator[Case]:
    """``count`` files: whole, cut, with flipped bits, spliced, with lies about their size, bombs, no pictures."""
    draw = random.Random(seed)
    makers: list[tuple[Callable[..., tuple[bytes, frozenset[str]]], int]] = [
        (_whole, 10),
        (_cut, 25),
        (_flipped, 30),
        (_spliced, 15),
        (_lying, 12),
        (_bomb, 1),
        (_no_picture, 7),
    ]
    names, weights = zip(*makers, strict=True)
    for number in range(count):
        (make,) = draw.choices(names, weights)
        data, right = make(draw, whole)
        yield Case(f"{number:05d}{make.__name__}.jpg", data, right)


def _whole(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    return draw.choice(whole).data, frozenset({"row"})


def _cut(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    kind, data = draw.choice(whole)
    size = draw.choice(
        [0, draw.randrange(1, 64), draw.randrange(64, len(data)), len(data) - draw.randrange(1, 9)]
    )
    if size == 0:
        return b"", frozenset({"empty"})
    right = CUT_LOOSELY if kind in ("TIFF", "GIF") else CUT
    return data[:size], right if size >= 64 else CUT_LOOSELY | {"unsupported"}


def _flipped(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    data = bytearray(draw.choice(whole).data)
    reach = draw.choice([64, 1024, len(data)])  # headers break in more ways than pixels
    for _ in range(draw.choice([1, 2, 8, 64])):
        data[draw.randrange(min(reach, len(data)))] ^= 1 << draw.randrange(8)
    return bytes(data), DAMAGED


def _spliced(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    one, two = draw.choice(whole).data, draw.choice(whole).data
    start, length = draw.randrange(len(one)), draw.randrange(len(two))
    return one[:start] + two[-length:] + draw.choice([b"", one[start:]]), DAMAGED | {"empty"}


def _lying(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    """Another width or height in a header of a PNG, GIF, BMP or JPEG."""
    kind, data = draw.choice([each for each in whole if each.kind in ("PNG", "GIF", "BMP", "JPEG")])
    changed, size = bytearray(data), draw.choice([0, 1, 7, 4000, 20_000, 65_535])
    if kind == "PNG":
        struct.pack_into(">I", changed, draw.choice([16, 20]), size * draw.choice([1, 60_000]))
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    elif kind == "JPEG":
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        struct.pack_into(">H", changed, frame + draw.choice([5, 7]), size)
    else:
        struct.pack_into("<H" if kind == "GIF" else "<i", changed, 6 if kind == "GIF" else 18, size)
    return bytes(changed), DAMAGED


def _bomb(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    """A few kilobytes with many black pixels: just below the limit, or far above it."""
    if draw.random() < 0.5:
        return _black_png(9_900, 9_900), frozenset({"row"})
    return _black_png(draw.choice([20_000, 200_000]), 20_000, whole=False), frozenset({"too_large"})


def _black_png(width: int, height: int, whole: bool = True) -> bytes:
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * (height if whole else 1)), 9)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _no_picture(draw: random.Random, whole: Sequence[Original]) -> tuple[bytes, frozenset[str]]:
    kinds = [
        b"<html><body>404</body></html>",
        b"%PDF-1.7\n",
        b"PK\3\4" + draw.randbytes(60),
        draw.randbytes(500),
        b"\0",
    ]
    return draw.choice(kinds), frozenset({"unsupported"})


def tricky_members(whole: Sequence[Original], count: int, seed: int) -> list[Case]:
    """``count`` members of a zip, most with something wrong about the member and not about its picture."""
    draw = random.Random(seed)
    tricks: list[tuple[str, dict[str, Any], frozenset[str]]] = [
        ("stored", {}, frozenset({"row"})),
        ("deflated", {"method": 8}, frozenset({"row"})),
        ("zip64", {"zip64": True}, frozenset({"row"})),
        ("encrypted", {"flags": 1}, frozenset({"unsupported"})),
        ("bzip2", {"claimed_method": 12}, frozenset({"unsupported"})),
        ("wrong-crc", {"crc": 0x12345678}, frozenset({"decode"})),
        ("wrong-crc-deflated", {"crc": 0x12345678, "method": 8}, frozenset({"decode"})),
        ("too-long", {"longer": 100}, frozenset({"decode"})),
        ("too-short", {"longer": -100}, frozenset({"decode", "truncated"})),
        ("broken-deflate", {"method": 8, "garble": True}, frozenset({"decode", "truncated"})),
        ("no-local-header", {"local": b"XXXX"}, frozenset({"decode"})),
    ]
    cases = []
    for number in range(count):
        name, member, right = draw.choice(tricks)
        where = draw.choice(["", "../../", "/", "a/../b/", "C:\\", "x" * 200 + "/", "nul\\", "日本/"])
        cases.append(Case(f"{where}{number:05d}-{name}.jpg", draw.choice(whole).data, right, member))
    zeros = bytes(100_000_000)
    cases.append(Case("bomb.jpg", zeros, frozenset({"too_large"}), {"method": 8}))
    cases.append(Case("lying-bomb.jpg", zeros, frozenset({"decode"}), {"method": 8, "size": 1000}))
    return cases


def zip_of(cases: Sequence[Case]) -> bytes:
    """A zip that says of each case what its ``member`` has."""
    body, directory = bytearray(), bytearray()
    for case in cases:
        local, central = _headers(case, len(body))
        body += local
        directory += central
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(cases), len(cases), len(directory), len(body), 0)
    return bytes(body + directory + end)


def _headers(case: Case, offset: int) -> tuple[bytes, bytes]:
    """A member with its local header, and its entry in the directory."""
    said, name = case.member, case.name.encode()
    packed = case.data if said.get("method", 0) == 0 else _deflated(case.data, said.get("garble", False))
    size, length = said.get("size", len(case.data)), len(packed) + said.get("longer", 0)
    size = size + said.get("longer", 0) if said.get("method", 0) == 0 else size
    method = said.get("claimed_method", said.get("method", 0))
    crc, flags = said.get("crc", zlib.crc32(case.data)), said.get("flags", 0) | 0x800
    extra = struct.pack("<2H2Q", 1, 16, size, length) if said.get("zip64") else b""
    shown = (0xFFFFFFFF, 0xFFFFFFFF) if extra else (length, size)
    common = struct.pack("<5H3I2H", 45, flags, method, 0, 33, crc, *shown, len(name), len(extra))
    local = said.get("local", b"PK\3\4") + common + name + extra
    central = (
        b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<3H2I", 0, 0, 0, 0, offset) + name + extra
    )
    return local + packed, central


def _deflated(data: bytes, garble: bool) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = bytearray(packer.compress(data) + packer.flush())
    if garble:
        middle = len(packed) // 2
        packed[middle : middle + 40] = bytes(40)
    return bytes(packed)


def tar_of(cases: Sequence[Case], links: int) -> tuple[bytes, list[Case]]:
    """A tar of the cases, their names with tricks, and of ``links``; with the cases as they are named there."""
    stream, named = io.BytesIO(), []
    tricks = ("", "../", "/", "./", "a/../", "y" * 150 + "/")
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, case in enumerate(cases):
            prefix = tricks[number % len(tricks)]
            member = tarfile.TarInfo(f"{prefix}tar{case.name}")
            member.size, member.mtime = len(case.data), 1_700_000_000
            archive.addfile(member, io.BytesIO(case.data))
            shown = member.name.removeprefix("./") if prefix == "./" else member.name
            named.append(case._replace(name=shown))
        for number in range(links):
            link = tarfile.TarInfo(f"link{number}.jpg")
            link.type, link.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE)[number % 2], "/etc/passwd"
            archive.addfile(link)
            named.append(Case(link.name, b"", frozenset({"unsupported"})))
    return stream.getvalue(), named
