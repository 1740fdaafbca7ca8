"""Features kept as int8: what comes back, how far off it is, and that every reader copes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from captionbeam.jobs.cli import main
from captionbeam.pipelines.maintenance.compact import compact
from captionbeam.pipelines.maintenance.export import export
from captionbeam.pipelines.maintenance.history import describe
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.int8 import RoundingError, dequantise, quantise, rounded
from captionbeam.schemas.store import layout
from tests.builders.data.stores import make_features, rows_of

IDS = [f"{number}.jpg" for number in range(10)]
HALVES = st.floats(-65504, 65504, width=16)


def made(ids: list[str] = IDS, shape: tuple[int, ...] = (2, 2, 3)) -> dict[str, np.ndarray]:
    """What ``make_features`` puts into its store, by id."""
    random = np.random.default_rng(0)
    return {name: random.random(shape).astype(np.float16) for name in ids}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert {name: grid.tolist() for name, grid in found.items()} == {
        name: grid.tolist() for name, grid in expected.items()
    }


@settings(max_examples=60, deadline=None)
@given(arrays(np.float16, (3, 2, 2, 4), elements=HALVES))
def test_no_number_is_off_by_more_than_half_a_step_and_nothing_is_clipped(values):
    codes, scales = quantise(values)
    assert (codes.dtype, codes.shape, scales.dtype, scales.shape) == (
        np.int8,
        (3, 2, 2, 4),
        np.float16,
        (3, 4),
    )
    assert codes.min() >= -127
    step = scales.astype(np.float64)[:, None, None]
    assert (np.abs(codes * step - values) <= step * 0.5 * (1 + 1e-6)).all()
    largest = np.abs(values.astype(np.float64)).max((1, 2))
    assert (127.5 * scales.astype(np.float64) >= largest).all()
    assert np.isfinite(dequantise(codes, scales)).all()
    assert not codes[np.broadcast_to(step == 0, codes.shape)].any()


@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
@pytest.mark.parametrize("shape", [(2, 2, 3), (3,)])
def test_a_store_gives_float16_back(tmp_path, file_format, shape):
    store = make_features(str(tmp_path / "store"), IDS, shape, file_format=file_format, dtype="int8")
    expected = {name: rounded(grid[None])[0] for name, grid in made(shape=shape).items()}
    found = rows_of(store)
    assert {grid.dtype for grid in found.values()} == {np.dtype(np.float16)}
    assert_same(found, expected)
    assert_same(rows_of(store, ids=["3.jpg", "8.jpg"]), {name: expected[name] for name in ("3.jpg", "8.jpg")})
    assert next(store.scan()).schema.names == ["image_id", "uri", "version", "source", store.column]
    with pytest.raises(RequestError, match=f"no column '{store.column}_scale' in this store"):
        next(store.scan([f"{store.column}_scale"]))
    assert verify(store.url).problems == []


def test_any_parquet_reader_gets_the_numbers_as_the_documentation_says(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS, dtype="int8")
    table = pq.read_table(store.url + "/data")
    shape = json.loads(table.schema.field("grid").metadata[b"captionbeam.shape"])
    scales = table.schema.field("grid").metadata[b"captionbeam.scale"].decode()
    at = table.column("image_id").to_pylist().index("4.jpg")
    codes = np.frombuffer(table.column("grid")[at].as_py(), np.int8).reshape(shape)
    scale = np.frombuffer(table.column(scales)[at].as_py(), np.float16)
    np.testing.assert_allclose(codes * scale.astype(np.float32), made()["4.jpg"], atol=1 / 254 * 1.01)


def test_hdf5_has_codes_and_scales_as_datasets(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS[:1], dtype="int8", file_format="hdf5")
    (path,) = Path(store.url, "data").iterdir()
    with h5py.File(path) as file:
        assert (file["grid"].dtype, file["grid_scale"].dtype) == (np.int8, np.float16)
        values = file["grid"][:] * file["grid_scale"][:].astype(np.float32)[:, None, None]
    np.testing.assert_allclose(values[0], made()["0.jpg"], atol=1 / 254 * 1.01)


def test_the_commit_says_how_far_off_a_shard_is(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS, dtype="int8")
    exact, found = made(), rows_of(store)
    for commit in layout.load_commits(store.url, store.manifest.column("shard").to_pylist()):
        ids = store.shard_index(commit.shard).column("image_id").to_pylist()
        values = np.stack([exact[name] for name in ids]).astype(np.float64)
        error = np.stack([found[name] for name in ids]) - values
        assert commit.rounding == pytest.approx(
            {
                "rows": len(ids),
                "max_abs": np.abs(error).max(),
                "max_value": values.max(),
                "sum_squared_error": (error**2).sum(),
                "sum_squares": (values**2).sum(),
                "max_relative": np.abs(error).max() / values.max(),
                "rms_relative": np.sqrt((error**2).sum() / (values**2).sum()),
            },
            rel=1e-5,
        )
        assert 0 < commit.rounding["rms_relative"] < 0.005


def test_store_show_says_how_far_off_all_is(tmp_path, capsys):
    store = make_features(str(tmp_path / "store"), IDS, dtype="int8", spec={"dtype": "int8"})
    error = np.stack(list(rows_of(store).values())) - np.stack(list(made().values())).astype(np.float64)
    said = describe(store)["rounding"]
    assert (said["shards"], said["max_abs"]) == (3, pytest.approx(np.abs(error).max(), rel=1e-5))
    assert (said["rows"], said["stored_rows"]) == (10, 10)
    assert main(["store", "show", store.url]) == 0
    assert f"off by {said['rms_relative']:.3%} (root mean square)" in capsys.readouterr().out
    compact(store.url, 0.2, 256)
    assert describe(Store.open(store.url))["rounding"] == {}


def test_zeros_come_back_as_zeros():
    zeros = np.zeros((2, 2, 2, 3), np.float16)
    error = RoundingError()
    error.add(zeros, *quantise(zeros))
    assert (dequantise(*quantise(zeros)).tolist(), error.to_dict()["rms_relative"]) == (zeros.tolist(), 0.0)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float16, (4, 5), elements=HALVES))
def test_a_pooled_vector_has_one_scale(values):
    codes, scales = quantise(values)
    assert scales.shape == (4, 1)
    step = scales.astype(np.float64)
    assert (np.abs(codes * step - values) <= step * 0.5 * (1 + 1e-6)).all()


def test_compacting_merges_the_codes_as_they_are(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS, dtype="int8")
    before = rows_of(store)
    snapshot, rewritten = compact(store.url, 0.2, 256)
    assert (rewritten, snapshot.totals["shards"]) == (3, 1)
    assert_same(rows_of(Store.open(store.url)), before)
    assert verify(store.url).problems == []


def test_an_export_has_numbers(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS, dtype="int8")
    export(store, str(tmp_path / "npy"), "npy")
    assert np.load(tmp_path / "npy" / "grid.npy").tolist() == [
        grid.tolist() for grid in rows_of(store).values()
    ]
    export(store, str(tmp_path / "jsonl"), "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "jsonl" / "part-00000.jsonl").read_text().splitlines()]
    assert [row["grid"] for row in rows] == [grid.ravel().tolist() for grid in rows_of(store).values()]
