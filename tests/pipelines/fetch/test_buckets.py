"""How many requests a window of reads costs, counted on real servers: one an image, one for neighbours."""

from __future__ import annotations

import threading
import time

import fsspec
import pytest

from captionbeam.pipelines.sources.images import fetch
from captionbeam.schemas.storage import files
from tests.builders.data.sources import listed, make_zip, picture
from tests.builders.web.key_servers import ADDRESS, put_keys
from tests.builders.web.meddler import meddling


@pytest.fixture
def counted(bucket, monkeypatch):
    """The bucket behind a server that counts, and that lets the requests of a moment meet: the most at one time."""
    seen = {"requests": [], "busiest": 0}
    busy, lock = [], threading.Lock()

    def count(method, path):
        with lock:
            seen["requests"].append((method, path))
            busy.append(path)
            seen["busiest"] = max(seen["busiest"], len(busy))
        time.sleep(0.3)
        with lock:
            busy.pop()

    with meddling(bucket.server.address, count) as address:
        monkeypatch.setenv(ADDRESS[bucket.server.protocol], address)
        fsspec.get_filesystem_class(bucket.server.protocol).clear_instance_cache()
        yield bucket.url, seen


def test_a_window_of_files_is_one_gather_of_one_request_each(counted):
    url, seen = counted
    put_keys(url, [f"photos/{n:02}.jpg" for n in range(16)], picture("a"))
    refs, _ = listed(f"{url}/photos")
    seen["requests"].clear()
    seen["busiest"] = 0
    assert fetch(refs) == [picture("a")] * 16
    assert len(seen["requests"]) == 16
    assert seen["busiest"] >= 8


def test_neighbours_in_a_container_are_one_request(counted, tmp_path):
    url, seen = counted
    contents = {f"{n:02}.jpg": picture(str(n), 3000) for n in range(32)}
    make_zip(tmp_path / "x.zip", contents)
    files.copy_file(str(tmp_path / "x.zip"), f"{url}/x.zip")
    refs, _ = listed(f"{url}/x.zip")
    seen["requests"].clear()
    assert fetch(refs) == [contents[ref.image_id] for ref in refs]
    assert len(seen["requests"]) == 1


def test_windows_of_several_containers_are_one_gather(counted, tmp_path):
    url, seen = counted
    contents = {f"{n:02}.jpg": picture(str(n), 3000) for n in range(8)}
    make_zip(tmp_path / "x.zip", contents)
    for name in "abcd":
        files.copy_file(str(tmp_path / "x.zip"), f"{url}/{name}.zip")
    refs = [ref for name in "abcd" for ref in listed(f"{url}/{name}.zip")[0]]
    seen["requests"].clear()
    seen["busiest"] = 0
    assert fetch(refs) == [contents[ref.image_id] for ref in refs]
    assert len(seen["requests"]) == 4
    assert seen["busiest"] >= 3
