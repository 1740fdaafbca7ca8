"""Create-if-absent, listings, copies and data files on a real GCS server and a real S3 server."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import SUFFIX, open_data, open_writer
from captionbeam.schemas.storage import files, object_stores
from captionbeam.schemas.store import models
from tests.builders.running.commands import ROOT, environment
from tests.builders.web.meddler import LOSE_THE_ANSWER, meddling

WRITERS = 8
ADDRESS = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}


def everything(url):
    fs, path = files.split(url)
    return fs.find(path)


@pytest.fixture
def meddled(bucket, monkeypatch):
    """The bucket behind a server that does to one object's writes, one after the other, what the list says."""
    plan, seen = [], []

    def decide(method, path):
        if method not in ("PUT", "POST") or (method == "POST" and "/upload/" not in path):
            return None
        seen.append(method)
        return plan.pop(0) if plan else None

    with meddling(bucket.server.address, decide) as address:
        monkeypatch.setenv(ADDRESS[bucket.server.protocol], address)
        fsspec.get_filesystem_class(bucket.server.protocol).clear_instance_cache()
        yield bucket.url, plan, seen


def test_of_many_processes_that_create_one_key_one_wins(bucket):
    """They start together: each waits for a word after its imports."""
    url = files.join(bucket.url, "commits/a.json")
    code = (
        "url, data = sys.argv[1:]; files.exists(url); print('ready', flush=True); sys.stdin.readline(); "
        "print(files.create(url, data.encode()))"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; from captionbeam.schemas.storage import files; {code}",
        url,
    ]
    running = [
        subprocess.Popen(
            [*command, str(n)], cwd=ROOT, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for n in range(WRITERS)
    ]  # fmt: skip
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].strip() for process in running]
    assert Counter(said) == {"True": 1, "False": WRITERS - 1}
    assert files.read_bytes(url) == b"%d" % said.index("True")
    assert files.names(files.join(bucket.url, "commits")) == ["a.json"]


def test_who_wrote_and_never_heard_of_it_has_won(meddled):
    """The library sends the request again, and the storage answers that the object is there: it is ours."""
    url, plan, seen = meddled
    plan.append(LOSE_THE_ANSWER)
    assert files.create(files.join(url, "a.json"), b"ours")
    assert len(seen) == 2
    assert not files.create(files.join(url, "a.json"), b"theirs")
    assert files.read_bytes(files.join(url, "a.json")) == b"ours"


def test_a_conflict_is_tried_again(meddled):
    url, plan, seen = meddled
    plan += [409, 409]
    assert files.create(files.join(url, "a.json"), b"x")
    assert len(seen) == 3
    plan.append(409)
    assert not files.create(files.join(url, "a.json"), b"y")


def test_what_the_storage_forbids_is_a_permission_error(meddled):
    url, plan, _ = meddled
    plan += [403, 403]
    with pytest.raises(PermissionError):
        files.create(files.join(url, "a.json"), b"x")
    with pytest.raises(PermissionError):
        files.write_atomic(files.join(url, "a.json"), b"x")
    assert files.names(url) == []


def test_whether_writers_may_share_a_store_is_tried_out(bucket):
    assert files.has_atomic_create(files.join(bucket.url, "store"))
    assert everything(bucket.url) == []


def test_a_server_that_writes_over_what_is_there_is_for_one_writer(s3, monkeypatch):
    """Some S3-compatible servers take no notice of If-None-Match."""
    with meddling(s3.server.address, lambda *_: None, without="If-None-Match") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        assert not files.has_atomic_create(s3.url)
        assert everything(s3.url) == []


def test_a_bucket_that_is_not_there_is_known_before_the_work(bucket):
    with pytest.raises(RequestError, match=r"cannot be written to \(.*\); expected a writable folder or URL"):
        files.check_writable(f"{bucket.server.protocol}://no-such-bucket/store")
    assert files.names(f"{bucket.server.protocol}://no-such-bucket/store") == []
    files.check_writable(files.join(bucket.url, "store"))
    assert files.names(files.join(bucket.url, "store")) == []


def test_files_are_copied_to_from_and_within_a_bucket(bucket, tmp_path):
    data = bytes(range(256)) * 40_000  # several blocks
    for name, content in (("weights", data), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        files.copy_file(str(tmp_path / name), files.join(bucket.url, "a", name))
        files.copy_file(files.join(bucket.url, "a", name), files.join(bucket.url, "b", name))
        files.copy_file(files.join(bucket.url, "b", name), str(tmp_path / "out" / name))
        assert (tmp_path / "out" / name).read_bytes() == content


def test_a_cut_file_never_gets_its_name_in_a_bucket(bucket, tmp_path):
    data = bytes(range(256)) * 40_000  # several parts of an upload
    url, source = files.join(bucket.url, "models/weights"), tmp_path / "weights"
    source.write_bytes(data[:10_000_000])
    with pytest.raises(FingerprintError, match="has SHA-256"):
        models.keep_file(str(source), url, sha256_bytes(data))
    assert everything(bucket.url) == []
    files.write_atomic(url, data[:-1])
    source.write_bytes(data)
    models.keep_file(str(source), url, sha256_bytes(data))
    assert files.read_bytes(url) == data


@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
def test_a_data_file_appears_when_it_is_whole(bucket, file_format, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = files.join(bucket.url, "data")
    url = files.join(folder, f"shard{SUFFIX[file_format]}")
    field = arrow.grid_field("grid", (8, 8, 512))
    schema = arrow.row_schema(pa.schema([field]), "features", "0" * 16)
    grids = np.random.default_rng(0).random((64, 8, 8, 512)).astype(np.float16)
    texts = [pa.array([f"{name}{n}" for n in range(64)]) for name in arrow.IDENTITY_NAMES]
    batch = pa.RecordBatch.from_arrays([*texts, arrow.pack_grid(grids, field)], schema=schema)
    writer = open_writer(url, schema)
    for _ in range(3):  # 12 MiB: more than one part of an upload
        writer.write(batch)
    assert files.names(folder) == []
    written = writer.close()
    assert files.names(folder) == [written.name]
    assert written.bytes == len(files.read_bytes(url))
    data = open_data(url)
    read = [data.read(group, ["image_id", "grid"]) for group in range(len(data.group_rows))]
    data.close()
    table = pa.Table.from_batches(read)
    assert table.column("image_id").to_pylist() == texts[0].to_pylist() * 3
    rows = arrow.as_tensor(table.combine_chunks().column("grid").chunk(0), field).to_numpy_ndarray()
    assert np.array_equal(rows, np.concatenate([grids] * 3))
    assert list(tmp_path.iterdir()) == []


def test_a_data_file_that_is_given_up_leaves_nothing(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    schema = arrow.row_schema(pa.schema([arrow.grid_field("pooled", (4,))]), "features", "0" * 16)
    writer = open_writer(files.join(bucket.url, f"data/shard{SUFFIX['hdf5']}"), schema)
    writer.abort()
    assert files.names(files.join(bucket.url, "data")) == []
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_libraries_are_those_of_a_disk():
    """By class name, since none of them is imported."""
    refusal = type("HttpError", (Exception,), {"__module__": "gcsfs.retry", "code": "404"})
    with pytest.raises(FileNotFoundError), object_stores.as_os_errors("gs://b/a"):
        raise refusal("no such bucket")
    missing = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})
    with (
        pytest.raises(PermissionError, match="Unable to locate credentials"),
        object_stores.as_os_errors("s3://b/a"),
    ):
        raise missing("Unable to locate credentials")
    with (
        pytest.raises(OSError, match="Bad Request: b/a invalid name"),
        object_stores.as_os_errors("gs://b/a"),
    ):
        raise ValueError("Bad Request: b/a\ninvalid name")
    with pytest.raises(ValueError, match="not the storage's"), object_stores.as_os_errors("gs://b/a"):
        raise ValueError("not the storage's")


def test_a_plain_refusal_to_write_over_is_understood(meddled):
    """412 without a word of why, as S3-compatible servers answer."""
    url, plan, _ = meddled
    plan.append(412)
    assert not files.create(files.join(url, "a.json"), b"x")


def test_a_folder_holds_neither_itself_nor_what_is_half_written(bucket):
    """Consoles make a folder by an empty object with a slash at its end."""
    fs, path = files.split(files.join(bucket.url, "commits"))
    fs.pipe_file(f"{path}/", b"")
    for name in ("b.json", ".c.json.tmp", "deeper/d.json"):
        files.write_atomic(files.join(bucket.url, "commits", name), b"x")
    assert files.names(files.join(bucket.url, "commits")) == ["b.json", "deeper"]


def python(code, *arguments):
    whole = f"import sys; from captionbeam.schemas.storage import files; {code}"
    command = [sys.executable, "-c", whole, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def test_what_others_write_is_seen_at_once(bucket):
    folder = files.join(bucket.url, "snapshots")
    assert files.names(folder) == []
    assert not files.exists(files.join(folder, "1.json"))
    python("files.create(sys.argv[1], b'1')", files.join(folder, "1.json")).wait()
    assert files.names(folder) == ["1.json"]
    assert files.exists(files.join(folder, "1.json"))
    assert files.exists(folder)
    python("fs, path = files.split(sys.argv[1]); fs.rm_file(path)", files.join(folder, "1.json")).wait()
    assert files.names(folder) == []
    assert not files.exists(files.join(folder, "1.json"))
