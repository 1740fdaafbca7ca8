"""Containers of every kind with tiny images, a web server, a filesystem that counts what is read of it."""

from __future__ import annotations

import asyncio
import io
import struct
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from captionbeam.pipelines.sources.listing import list_images, split_source
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import Ignored, SourceOptions
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef


def picture(name: str, length: int = 500) -> bytes:
    """Bytes that stand for an image: different for every name, compressible, ``length`` long."""
    return (f"picture {name} ".encode() * length)[:length]


def listed(url: str, **options: str) -> tuple[list[ImageRef], list[str]]:
    """The images that ``url`` holds, and the names of what was ignored."""
    found = [
        item
        for spec in parse_sources([str(url)], SourceOptions(**options))
        for part in split_source(spec)
        for item in list_images(part)
    ]
    refs = [item for item in found if isinstance(item, ImageRef)]
    return refs, [item.name for item in found if isinstance(item, Ignored)]


def ref_to(uri: object, **fields: Any) -> ImageRef:
    """A reference to one file."""
    return ImageRef(str(uri), str(uri), str(uri), None, **fields)


def codes(results: Sequence[bytes | ImageError]) -> list[str]:
    """What became of each fetch: ``ok``, or the failure's code."""
    return [result.code if isinstance(result, ImageError) else "ok" for result in results]


def make_folder(root: Path, contents: Mapping[str, bytes]) -> Path:
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def make_zip(path: Path, contents: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def make_raw_zip(path: Path, members: Sequence[tuple[bytes, bytes, bytes]], flags: int = 0) -> Path:
    """A stored zip whose names are these very bytes: (name, extra field, data) each."""
    body, central = b"", b""
    for name, extra, data in members:
        sizes = zlib.crc32(data), len(data), len(data), len(name), len(extra)
        head = struct.pack("<HHHHHIIIHH", 20, flags, 0, 0, 0x21, *sizes)
        central += b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        central += name + extra
        body += b"PK\3\4" + head + name + extra + data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(central), len(body), 0)
    path.write_bytes(body + central + b"PK\5\6" + end)
    return path


def unicode_path(raw: bytes, name: bytes, version: int = 1) -> bytes:
    """Info-ZIP's Unicode Path extra field: ``name`` in UTF-8 for a member whose header says ``raw``."""
    data = struct.pack("<BI", version, zlib.crc32(raw)) + name
    return struct.pack("<HH", 0x7075, len(data)) + data


def make_tar(path: Path, contents: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind, errors="surrogateescape") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1_700_000_000
            archive.addfile(member, io.BytesIO(data))
    return path


def make_parquet(path: Path, columns: Mapping[str, list | pa.Array], row_group: int = 4) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=row_group)
    return path


def encrypt_members(path: Path) -> None:
    """Sets the flag of encryption in every header of a zip, as its readers see it."""
    raw = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = raw.find(signature)
        while at >= 0:
            raw[at + flags] |= 1
            at = raw.find(signature, at + 4)
    path.write_bytes(raw)


def zip_with_local_extra(path: Path, name: str, data: bytes, extra: int) -> Path:
    """A zip whose member has ``extra`` bytes of extra field in its local header and none in the directory."""
    crc, size, encoded = zlib.crc32(data), len(data), name.encode()
    common = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, crc, size, size, len(encoded), extra)
    local = b"PK\3\4" + common + encoded + b"\0" * extra + data
    central = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, crc, size, size, len(encoded), *[0] * 4, 0, 0
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central) + len(encoded), len(local), 0)
    path.write_bytes(local + central + encoded + end)
    return path


class CountingFileSystem(MemoryFileSystem):
    """``counted://``: memory that remembers how many bytes of it were read, by how many reads."""

    protocol = "counted"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    reads: ClassVar[Counter] = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("counted://", "memory://"))

    def open(self, path, mode="rb", **kwargs):
        if "w" in mode:
            return super().open(path, mode, **kwargs)
        return _CountingFile(super().open(path, mode, **kwargs), self.reads)

    def cat_file(self, path, start=None, end=None, **kwargs):
        data = super().cat_file(path, start=start, end=end, **kwargs)
        self.reads["bytes"] += len(data)
        self.reads["reads"] += 1
        return data


class _CountingFile(io.RawIOBase):
    def __init__(self, inner, reads: Counter) -> None:
        self._inner, self._reads = inner, reads

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._inner.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._inner.seek(offset, whence)

    def readinto(self, buffer) -> int:
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self._reads["bytes"] += len(data)
        self._reads["reads"] += 1
        return len(data)


class DistantFileSystem(AsyncFileSystem):
    """``distant://``: memory behind coroutines, as gs and s3 are, each read taking ``delay`` seconds.

    ``errors`` holds, by path, what its next reads raise; ``busiest`` the most reads at one time.
    """

    protocol = "distant"
    errors: ClassVar[dict[str, list[Exception]]] = {}
    delay: ClassVar[float] = 0.0
    busiest: ClassVar[int] = 0
    _busy: ClassVar[int] = 0

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        kind = type(self)
        kind._busy += 1
        kind.busiest = max(kind.busiest, kind._busy)
        try:
            await asyncio.sleep(kind.delay)
            if kind.errors.get(path):
                raise kind.errors[path].pop(0)
            return fsspec.filesystem("memory").cat_file("/" + path, start=start, end=end)
        finally:
            kind._busy -= 1


@contextmanager
def distant(contents: Mapping[str, bytes], delay: float = 0.0) -> Iterator[type[DistantFileSystem]]:
    """``distant://`` with these files."""
    fsspec.register_implementation("distant", DistantFileSystem, clobber=True)
    fsspec.filesystem("memory").pipe({f"/{name}": data for name, data in contents.items()})
    DistantFileSystem.errors, DistantFileSystem.delay, DistantFileSystem.busiest = {}, delay, 0
    yield DistantFileSystem
    fsspec.filesystem("memory").rm([f"/{name}" for name in contents])


@contextmanager
def counted(contents: Mapping[str, bytes]) -> Iterator[Counter]:
    """``counted://`` with these files; gives the counter of ``bytes`` and ``reads``."""
    fsspec.register_implementation("counted", CountingFileSystem, clobber=True)
    CountingFileSystem.store.clear()
    filesystem = fsspec.filesystem("counted")
    for name, data in contents.items():
        filesystem.pipe_file(name, data)
    CountingFileSystem.reads.clear()
    yield CountingFileSystem.reads
    CountingFileSystem.store.clear()


class Web:
    """A web server on this machine, with or without byte ranges.

    ``/status/CODE/...`` answers with that status, ``/flaky/N/FILE`` fails N times, ``/cut/FILE`` breaks off
    halfway, ``/slow/FILE`` waits a second; folders are pages of links. Without ``heads``, HEAD gives a length of 0.
    """

    def __init__(self, contents: Mapping[str, bytes], ranges: bool, heads: bool = True) -> None:
        self.contents, self.ranges, self.heads = dict(contents), ranges, heads
        self.requests: Counter = Counter()
        self.bytes_sent = 0
        web = self

        class Handler(_Handler):
            pass

        Handler.web = web
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        self.web.requests[path] += 1
        word, _, rest = path.partition("/")
        if word == "status":
            self._send(int(rest.partition("/")[0]), b"no", body)
        elif word == "flaky" and self.web.requests[path] <= int(rest.partition("/")[0]):
            self._send(503, b"later", body)
        elif word in ("cut", "slow", "flaky"):
            time.sleep(1.0 if word == "slow" else 0)
            self._send_file(rest.rpartition("/")[2], body, cut=word == "cut")
        elif path in self.web.contents:
            self._send_file(path, body)
        else:
            self._send_page(path, body)

    def _send_file(self, name: str, body: bool, cut: bool = False) -> None:
        data, status, headers = self.web.contents[name], 200, {}
        wanted = self.headers.get("Range")
        if wanted and self.web.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[int(first) : int(last) + 1], 206
        self._send(status, data, body, headers, cut)

    def _send_page(self, folder: str, body: bool) -> None:
        """A page of links, as servers make of folders; 404 where nothing is below."""
        prefix = folder.rstrip("/") + "/" if folder else ""
        inside = {name[len(prefix) :] for name in self.web.contents if name.startswith(prefix)}
        links = {name.partition("/")[0] + ("/" if "/" in name else "") for name in inside}
        page = "".join(f'<a href="{link}">{link}</a>\n' for link in sorted(links)).encode()
        self._send(200 if links else 404, page, body, {"Content-Type": "text/html"})

    def _send(
        self, status: int, data: bytes, body: bool, headers: Mapping | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if body or self.web.heads else 0))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if cut:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            sent = data[: len(data) // 2] if cut else data
            self.wfile.write(sent)
            self.web.bytes_sent += len(sent)
        self.close_connection = self.close_connection or cut
