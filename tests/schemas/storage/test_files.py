"""Create-if-absent, atomic writes and addresses: the small things that everything stands on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.workers.boundary import across_workers, marked, unmarked
from captionbeam.schemas import errors
from captionbeam.schemas.errors import ImageError, RequestError, SystemicError
from captionbeam.schemas.records import address, parse_address
from captionbeam.schemas.storage import files
from tests.builders.running.commands import ROOT


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_of_many_creators_one_wins_and_its_bytes_stay(folder):
    url = files.join(folder, "commits/a.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: files.create(url, b"%d" % n), range(32)))
    assert sum(won) == 1
    assert files.read_bytes(url) == b"%d" % won.index(True)
    assert files.names(files.join(folder, "commits")) == ["a.json"]


def test_files_are_found_below_a_folder_hidden_ones_too(folder):
    for name in ("a/1.json", "a/b [x]/.2.tmp", "ab/3.json"):
        files.write_atomic(files.join(folder, name), b"")
    assert files.find(files.join(folder, "a")) == ["1.json", "b [x]/.2.tmp"]
    assert files.find(files.join(folder, "none")) == []


def test_of_many_processes_one_wins(tmp_path):
    code = f"from captionbeam.schemas.storage import files; print(files.create({str(tmp_path / 'a')!r}, b'x' * 100000))"
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert sorted(process.communicate()[0].split()[0] for process in running) == [b"False"] * 3 + [b"True"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        files.create(str(tmp_path / "file/below"), b"x")
    assert os.listdir(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_is_known_before_the_work(tmp_path, folder):
    files.check_writable(files.join(folder, "new"))
    assert files.names(files.join(folder, "new")) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        RequestError, match=r"file/x' cannot be written to \(.*\); expected a writable folder or URL"
    ):
        files.check_writable(str(tmp_path / "file" / "x"))


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="only Linux has a folder that nobody can write to")
@pytest.mark.parametrize("url", ["/proc/nope/store", "file:///proc/nope/store"])
def test_a_look_leaves_no_trace_and_knows_a_place_that_cannot_be_written(tmp_path, url):
    before = tmp_path.stat().st_mtime_ns
    files.check_local_writable(str(tmp_path / "new" / "store"))
    files.check_local_writable("memory://new")
    assert (os.listdir(tmp_path), tmp_path.stat().st_mtime_ns) == ([], before)
    with pytest.raises(RequestError, match=r"cannot be written to \(.*\); expected a writable folder or URL"):
        files.check_local_writable(url)


@contextmanager
def files_of_at_most(size):
    """As on a full disk: the operating system refuses to write more, with an error that names no file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_refusal_to_write_names_the_target(tmp_path):
    source, target = tmp_path / "weights", tmp_path / "store/models/weights"
    source.write_bytes(bytes(10_000_000))
    writes = [
        lambda: files.copy_file(str(source), str(target)),
        lambda: files.write_atomic(str(target), bytes(10_000_000)),
        lambda: files.create(str(target), bytes(10_000_000)),
    ]
    for write in writes:
        with files_of_at_most(1_000_000), pytest.raises(OSError, match="File too large") as refused:
            write()
        assert refused.value.filename == str(target)
    assert os.listdir(target.parent) == []


@given(st.from_regex(r"[0-9a-f]{40}", fullmatch=True), st.integers(0, 10**9), st.booleans())
def test_addresses_round_trip(shard, row, failed):
    assert parse_address(address(shard, row, failed)) == (shard, row, failed)


@given(st.text().filter(lambda text: "</captionbeam>" not in text and "\\n" not in text))
def test_an_error_of_ours_survives_a_runner(sentence):
    wrapped = RuntimeError(f"Traceback ... {marked(RequestError(sentence))} [while running 'Decide']")
    found = unmarked(wrapped)
    assert type(found) is RequestError
    assert str(found) == sentence


def test_workers_mark_what_they_raise_and_leave_the_rest():
    def refuse():
        raise SystemicError("the disk is full")
        yield

    with pytest.raises(RuntimeError, match="<captionbeam SystemicError>the disk is full</captionbeam>"):
        list(across_workers(refuse)())
    assert unmarked(RuntimeError("something else")) is None


def test_the_error_tree_stands_as_it_is_drawn():
    drawn = errors.__doc__ or ""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(kind.__name__ in drawn for kind in kinds)
    assert {kind.__name__ for kind in kinds if getattr(kind, "exit_status", 0) == 2} == {
        "RequestError", "SourceError", "PromptColumnError", "StoreError", "FingerprintError", "BundleError",
    }  # fmt: skip
    with pytest.raises(ValueError, match="unknown failure code 'odd'"):
        ImageError("odd", "decode", "")


def test_what_is_removed_is_no_pattern(folder):
    for name in ("we [1]/a*.bin", "we [1]/in/b.bin", "we 1/a.bin", "we 1/in/b.bin", "a*.bin", "ab.bin"):
        files.write_atomic(f"{folder}/{name}", b"1")
    files.remove(f"{folder}/we [1]/a*.bin")
    files.remove(f"{folder}/we [1]/in")
    files.remove(f"{folder}/a*.bin")
    assert not files.exists(f"{folder}/a*.bin")
    assert files.names(f"{folder}/we [1]/in") == []
    assert files.names(f"{folder}/we 1") == ["a.bin", "in"]
    assert files.names(f"{folder}/we 1/in") == ["b.bin"]
    assert files.names(folder)[:2] == ["ab.bin", "we 1"]
    with pytest.raises(FileNotFoundError):
        files.remove(f"{folder}/a*.bin")


def test_a_path_has_no_scheme():
    assert [files.scheme(url) for url in ("s3://b/a", "zip://a::b")] == ["s3", "zip"]
    assert {files.scheme(url) for url in ("/d/a", "a/b?u=http://c", "://a", "/http://a")} == {""}
