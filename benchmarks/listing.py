"""What listing a bucket's prefix costs: one task that lists all, against its ranges listed side by side.

    python benchmarks/listing.py --objects 4000 --page 20 --latency 0.1 --workers 16

Each storage is a real server on this machine (fake-gcs-server, moto), behind one that holds every request up as a
distant one would. These servers look through all objects for each page, so that there are few; pages are as small,
and stand for the thousands of pages of a large bucket. Folders of unlike size, then as many names in one folder. The
time of cutting is part of the second figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fsspec

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' servers

from captionbeam.pipelines.sources.buckets import key_pages
from captionbeam.pipelines.sources.listing import list_images, split_part, split_source
from captionbeam.pipelines.sources.spec import SourceSpec
from tests.builders.web.key_servers import ADDRESS, put_keys
from tests.builders.web.meddler import meddling
from tests.builders.web.servers import Server, gcs_serving, make_bucket, s3_serving


def main() -> None:
    """One line a storage and layout."""
    options = _parser().parse_args()
    key_pages.PAGE = options.page
    for serving in (gcs_serving, s3_serving):
        with serving() as server:
            os.environ.update(server.environment)
            for name, layout in (("folders", _folders), ("flat", _flat)):
                url = _bucket(server)
                put_keys(url, layout(options.objects))
                with _distant(server, options.latency):
                    report(f"{server.protocol} {name}", f"{url}/photos", options)
                fsspec.get_filesystem_class(server.protocol).clear_instance_cache()


def report(name: str, url: str, options: argparse.Namespace) -> None:
    """Time both ways and print them."""
    spec = SourceSpec(url, "folder", url, url)
    alone, found = timed(lambda: sum(1 for _ in list_images(spec)))
    with ThreadPoolExecutor(options.workers) as workers:
        split, (parts, again) = timed(lambda: side_by_side(spec, workers))
    if not found == again == options.objects:
        raise SystemExit(f"{name}: {found} and {again} images; expected {options.objects} both times")
    print(
        f"{name}: {found:,} objects: 1 task {alone:.2f} s, {parts} ranges by {options.workers} workers "
        f"{split:.2f} s: {alone / split:.1f} times as fast",
        flush=True,
    )


def side_by_side(spec: SourceSpec, workers: ThreadPoolExecutor) -> tuple[int, int]:
    """Ranges, and images: cut by one, cut once more and listed by all."""
    cut = workers.map(lambda part: list(split_part(part)), split_source(spec))
    parts = [small for smaller in cut for small in smaller]
    return len(parts), sum(workers.map(lambda part: sum(1 for _ in list_images(part)), parts))


def timed(work: Callable) -> tuple[float, object]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def _folders(count: int) -> list[str]:
    """Folders of which each is half as large as the one before it, down to 40 of one size."""
    halves = [min(n.bit_length(), 8) for n in range(count)]
    return [f"photos/{half:02}/{n % 5}/{n:07}.jpg" for n, half in zip(range(count), halves, strict=True)]


def _flat(count: int) -> list[str]:
    return [f"photos/IMG_{n:07}.jpg" for n in range(count)]


def _bucket(server: Server) -> str:
    name = f"listing-{uuid.uuid4().hex[:12]}"
    make_bucket(server, name)
    return f"{server.protocol}://{name}"


@contextmanager
def _distant(server: Server, latency: float) -> Iterator[None]:
    def late(method: str, path: str) -> None:
        time.sleep(latency)

    with meddling(server.address, late) as address:
        os.environ[ADDRESS[server.protocol]] = address
        fsspec.get_filesystem_class(server.protocol).clear_instance_cache()
        yield
    os.environ[ADDRESS[server.protocol]] = server.address


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=4_000)
    parser.add_argument("--page", type=int, default=20, help="entries a page (default 20)")
    parser.add_argument(
        "--latency", type=float, default=0.1, help="seconds a request is held up (default 0.1)"
    )
    parser.add_argument("--workers", type=int, default=16, help="tasks at one time (default 16)")
    return parser


if __name__ == "__main__":
    main()
