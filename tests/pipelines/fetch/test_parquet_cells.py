"""Cells of Parquet: exact for whatever rows are asked for, a row group read once, memory bounded."""

from __future__ import annotations

import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.sources import parquet_cells
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.workers.shards import windows
from captionbeam.schemas.records import ImageRef
from tests.builders.data.sources import counted, listed

ROWS, LENGTH = 60, 10_000
IMAGES = [os.urandom(LENGTH) for _ in range(ROWS)]


def hugging_face(images: list[bytes], row_group: int = ROWS) -> bytes:
    """A file as Hugging Face's ``datasets`` write it, a page for each image."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.StructArray.from_arrays(
        [pa.array(images, pa.binary()), pa.array([f"{n}.jpg" for n in range(len(images))])], fields=list(kind)
    )
    file = io.BytesIO()
    pq.write_table(
        pa.table({"image": column}), file, row_group_size=row_group, use_dictionary=False, compression="none",
        data_page_size=LENGTH, write_batch_size=1,
    )  # fmt: skip
    return file.getvalue()


@pytest.fixture
def streamed(monkeypatch):
    """Row groups of more than ten images are large, and reads are short."""
    monkeypatch.setattr(parquet_cells, "LARGE_GROUP", 10 * LENGTH)
    monkeypatch.setattr(parquet_cells, "_LONGEST_READ", LENGTH)
    monkeypatch.setattr(parquet_cells, "_READ", 2 * LENGTH)
    monkeypatch.setattr(parquet_cells, "_recent", parquet_cells._Recent())
    return parquet_cells._recent


def kept_bytes(recent) -> int:
    return sum(group.kept_bytes for group in recent._groups.values())


def test_a_large_row_group_is_read_once_and_not_kept(streamed):
    raw = hugging_face(IMAGES)
    with counted({"large.parquet": raw}) as count:
        refs, _ = listed("counted://large.parquet")
        count.clear()
        for start in range(0, ROWS, 7):
            assert fetch(refs[start : start + 7]) == IMAGES[start : start + 7]
            assert kept_bytes(streamed) == 0
        assert count["bytes"] < len(raw) + (128 << 10)  # and its footer


@given(st.lists(st.lists(st.integers(0, ROWS - 1), max_size=12), max_size=6), st.sampled_from([7, 25, ROWS]))
def test_whatever_is_asked_for_is_exact(asked, row_group):
    with pytest.MonkeyPatch.context() as patch, counted({"any.parquet": hugging_face(IMAGES, row_group)}):
        patch.setattr(parquet_cells, "LARGE_GROUP", 10 * LENGTH)
        patch.setattr(parquet_cells, "_recent", parquet_cells._Recent())
        refs, _ = listed("counted://any.parquet")
        for rows in asked:
            assert fetch([refs[row] for row in rows]) == [IMAGES[row] for row in rows]


@pytest.mark.usefixtures("streamed")
def test_damage_costs_the_rows_after_it():
    raw = bytearray(hugging_face(IMAGES))
    at = raw.find(IMAGES[30]) - 24
    raw[at : at + 8] = b"\xff" * 8  # in the head of its page
    with counted({"damaged.parquet": bytes(raw)}):
        refs, _ = listed("counted://damaged.parquet")
        found = [result for start in range(0, ROWS, 8) for result in fetch(refs[start : start + 8])]
    whole = sum(isinstance(result, bytes) for result in found)
    assert whole == 30
    assert found[:whole] == IMAGES[:whole]
    assert {result.code for result in found[whole:]} == {"decode"}
    assert "row group 0 is damaged" in found[-1].message


def test_of_small_row_groups_the_oldest_go(monkeypatch):
    monkeypatch.setattr(parquet_cells, "_recent", parquet_cells._Recent())
    monkeypatch.setattr(parquet_cells, "_SMALL_BYTES", 15 * LENGTH)
    with counted({"small.parquet": hugging_face(IMAGES, 10)}) as count:
        refs, _ = listed("counted://small.parquet")
        count.clear()
        for row, reads in ((0, 1), (10, 2), (5, 2), (15, 2), (20, 3), (30, 4), (1, 5)):
            assert fetch(refs[row : row + 5]) == IMAGES[row : row + 5]
            assert count["bytes"] // (10 * LENGTH) == reads, row
        assert kept_bytes(parquet_cells._recent) <= 30 * LENGTH


@given(st.lists(st.integers(0, 200), max_size=100))
def test_windows_end_at_32_images_or_128_mebibytes(sizes):
    refs = [ImageRef(str(n), "x", "s", None, length=size << 20) for n, size in enumerate(sizes)]
    found = list(windows(refs))
    assert [ref for window in found for ref in window] == refs
    for window, following in zip(found, [*found[1:], []], strict=False):
        expected = sum(ref.length for ref in window)
        assert len(window) <= 32
        assert len(window) == 1 or expected <= 128 << 20
        assert not following or len(window) == 32 or expected + following[0].length > 128 << 20


@pytest.mark.engines
def test_a_row_group_beyond_2_gib_is_read(tmp_path):
    """56 cells of 40 MiB, which are zeros but for their first bytes."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parts = [
        pa.StructArray.from_arrays(
            [pa.array([bytes([n]) + bytes(40 << 20) for n in range(start, start + 7)], pa.binary()),
             pa.array([f"{n}.jpg" for n in range(start, start + 7)])], fields=list(kind),
        )
        for start in range(0, 56, 7)
    ]  # fmt: skip
    table = pa.table({"image": pa.chunked_array(parts)})
    path = tmp_path / "large.parquet"
    pq.write_table(table, path, row_group_size=56, use_dictionary=False, compression="zstd")
    del parts, table
    refs, _ = listed(path)
    assert [len(window) for window in windows(refs)] == [3] * 18 + [2]
    for window in windows(refs):
        assert [(cell[0], len(cell)) for cell in fetch(window)] == [
            (ref.length, (40 << 20) + 1) for ref in window
        ]
