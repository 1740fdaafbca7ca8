"""``store verify``: a whole store is clean, and whatever is done to one of its files is found."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas.formats.kept import schema_text
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, tags
from captionbeam.schemas.store.rows import put_table, read_manifest, read_manifests, write_lists
from tests.builders.data.history import CAPTIONS, GRID, advance, change_columns

IMAGES = dict.fromkeys("abcdefgh", "1")
NAMED = ("data", "failures", "index", "columns", "manifests", "deletes", "snapshots")
PRICES = {name: {"price": number} for number, name in enumerate(IMAGES)}


def history(url, **options):
    """Superseded rows, failures that stay, failures that went away."""
    advance(url, IMAGES, fails={"a": "timeout", "b": "decode"}, columns=PRICES, **options)
    advance(url, {**IMAGES, "c": "2"}, fails={"c": "decode"}, **options)
    return advance(url, {**IMAGES, "c": "3", "d": "2"}, columns=PRICES, **options).url


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return history(str(tmp_path_factory.mktemp("whole") / "store"))


@pytest.mark.parametrize(("field", "file_format"), [(GRID, "parquet"), (GRID, "hdf5"), (CAPTIONS, "parquet")])
def test_a_whole_store_is_clean(tmp_path, field, file_format):
    url = history(str(tmp_path / "store"), field=field, file_format=file_format)
    report = verify(url)
    assert report.problems == []
    assert (report.snapshots, report.shards) == (3, 4)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_flipped_bit_of_any_named_file_is_found(whole, data):
    named = sorted(path for folder in NAMED for path in Path(whole, folder).iterdir())
    path = data.draw(st.sampled_from(named), label="file")
    before = path.read_bytes()
    at, bit = (
        data.draw(st.integers(0, len(before) - 1), label="byte"),
        data.draw(st.integers(0, 7), label="bit"),
    )
    changed = bytearray(before)
    changed[at] ^= 1 << bit
    try:
        path.write_bytes(bytes(changed))
        assert verify(whole).problems
    finally:
        path.write_bytes(before)
    assert verify(whole).problems == []


@pytest.mark.parametrize("folder", NAMED[:-1])
def test_a_missing_file_is_named(tmp_path, folder, capsys):
    url = history(str(tmp_path / "store"))
    lost = random.Random(0).choice(sorted(Path(url, folder).iterdir()))
    lost.unlink()
    assert cli.main(["store", "verify", url]) == 1
    *problems, last = capsys.readouterr().out.splitlines()
    assert any(lost.name in problem and "missing" in problem for problem in problems)
    assert f"{len(problems)} problem" in last


def republished(url, **changes):
    """The newest snapshot with other values, its seal right: as a faulty program would have published it."""
    newest = layout.newest_snapshot(url)
    where = Path(url, layout.snapshot_name(newest.id))
    values = json.loads(where.read_text()) | changes
    where.write_bytes(files.json_bytes(values | {layout.SEAL: layout.seal_of(values)}))


def test_wrong_totals_are_found(tmp_path):
    url = history(str(tmp_path / "store"))
    republished(url, totals=dict(layout.newest_snapshot(url).totals) | {"rows": 9})
    assert verify(url).problems == ["snapshot 3: totals say rows 9; manifests and deletes give 7"]


def test_an_image_with_two_live_rows_is_found(tmp_path):
    """The deletes are gone: superseded rows would be back."""
    url = history(str(tmp_path / "store"))
    republished(url, deletes=[])
    problems = verify(url).problems
    for name in "cd":
        assert any(f"snapshot 3: image {name!r} has 2 live rows: " in problem for problem in problems)


def test_a_shard_may_come_again_with_other_columns_only(tmp_path):
    url = history(str(tmp_path / "store"))
    before = verify(url)
    change_columns(url, {"e": {"price": 100}})
    change_columns(url, {"e": {"price": 200}})
    after = verify(url)
    assert after.problems == []
    assert after.shards == before.shards
    newest = layout.newest_snapshot(url)
    assert len(read_manifests(url, newest.manifests)) == len(read_manifest(url, newest.manifests)) + 2
    row = next(row for row in read_manifest(url, newest.manifests) if row["columns"] is None)
    (twice,), _ = write_lists(url, "twice.parquet", [row], [])
    (other,), _ = write_lists(url, "other.parquet", [{**row, "index": "other.parquet"}], [])
    republished(url, manifests=[*newest.manifests, twice])
    assert verify(url).problems == [f"snapshot 5: shard {row['shard']} is in the manifests 2 times"]
    republished(url, manifests=[*newest.manifests, other])
    said = f"snapshot 5: shard {row['shard']} is in the manifests 2 times, with different files of its rows"
    assert said in verify(url).problems


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([0, 1, 2], "has 3 rows; the index has 4"),
        ([1, 0, 2, 3], "is 'd'; the index says 'c' of version '1'"),
    ],
)
def test_columns_of_other_rows_are_found(tmp_path, rows, problem):
    """They would be read as the columns of other images."""
    url = str(tmp_path / "store")
    advance(url, IMAGES, fails={"a": "timeout", "b": "decode"}, columns=PRICES)
    newest = layout.newest_snapshot(url)
    row = next(row for row in read_manifest(url, newest.manifests) if row["failed"])
    table = pq.read_table(f"{url}/columns/{row['columns']}").take(rows)
    written = put_table(url, "columns/odd.parquet", table)
    size = row["bytes"] - Path(url, "columns", row["columns"]).stat().st_size + written.bytes
    odd = {**row, "bytes": size, "columns": written.name, "columns_sha256": written.sha256}
    (name,), _ = write_lists(url, "odd.parquet", [odd], [])
    totals = {**newest.totals, "bytes": newest.totals["bytes"] + size - row["bytes"]}
    republished(url, manifests=[*newest.manifests, name], totals=totals)
    (found,) = verify(url).problems
    assert found.startswith(f"shard {row['shard']}: ")
    assert "columns/odd.parquet" in found
    assert problem in found


def test_values_of_other_types_than_the_snapshots_are_found(tmp_path):
    url = str(tmp_path / "store")
    advance(url, IMAGES, columns={name: {"price": "n/a"} for name in IMAGES})
    newest = layout.newest_snapshot(url)
    assert verify(url).problems == []
    republished(url, kept=schema_text(pa.schema({"price": pa.float64()})))
    problems = verify(url).problems
    assert len(problems) == newest.totals["shards"]
    for problem in problems:
        assert re.search(
            r"columns/\S+ has a value that is not of its column's type in a snapshot: .*'n/a'", problem
        )


def test_deletes_that_name_no_row_are_found(tmp_path):
    url = history(str(tmp_path / "store"))
    newest = layout.newest_snapshot(url)
    shard = read_manifest(url, newest.manifests)[1]["shard"]
    rows = [
        {"shard": shard, "row": 99, "failed": False, "image_id": "c", "reason": "gone"},
        {"shard": "0" * 40, "row": 0, "failed": False, "image_id": "c", "reason": "gone"},
        {"shard": shard, "row": 0, "failed": False, "image_id": "zebra", "reason": "gone"},
    ]
    _, (name,) = write_lists(url, "odd.parquet", None, rows)
    republished(url, deletes=[*newest.deletes, name])
    problems = "\n".join(verify(url).problems)
    assert f"the delete of row 99 of {shard} is of no row of 'c'" in problems
    assert f"the delete of row 0 of {'0' * 40} is of a shard that no manifest has" in problems
    assert f"the delete of row 0 of {shard} is of no row of 'zebra'" in problems


def test_a_tag_of_no_snapshot_and_missing_weights_are_found(tmp_path):
    url = history(str(tmp_path / "store"))
    tags.set_tag(url, "prod", 9)
    republished(url, spec={"weights_sha256": "ab" * 32})
    assert verify(url).problems == [
        f"{url}/models/{'ab' * 32}.safetensors is missing",
        "tag prod stands for snapshot 9, which is not there",
    ]
