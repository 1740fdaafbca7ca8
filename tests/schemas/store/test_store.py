"""A store, as its readers see it: Parquet and HDF5, on a local disk and elsewhere."""

from __future__ import annotations

import uuid

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError, StoreError
from tests.builders.data.stores import make_captions, make_features, rows_of

IDS = [f"folder/{number:02d}.jpg" for number in range(11)]


@pytest.fixture(params=["parquet", "hdf5"])
def file_format(request):
    return request.param


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}/store"


def test_scan_gives_every_row_once_with_its_own_grid(url, file_format):
    store = make_features(url, IDS, shape=(2, 3, 4), file_format=file_format)
    random = np.random.default_rng(0)
    expected = {name: random.random((2, 3, 4)).astype(np.float16) for name in IDS}
    found = rows_of(store)
    assert sorted(found) == IDS
    assert all(np.array_equal(found[name], expected[name]) for name in IDS)
    assert next(iter(store.scan())).column("grid").to_numpy_ndarray().shape[1:] == (2, 3, 4)


def test_a_store_is_opened_by_its_path_and_shows_what_it_holds(tmp_path):
    make_features(str(tmp_path / "store"), IDS, failing=["bad.jpg"])
    store = Store.open(tmp_path / "store")
    assert repr(store) == f"<Store {tmp_path}/store, snapshot 1: 11 rows, 1 failure>"


def test_scan_by_ids_and_columns_gives_just_those(url, file_format):
    store = make_features(url, IDS, file_format=file_format)
    wanted = [IDS[3], IDS[7], "not there"]
    batches = list(store.scan(columns=["image_id"], ids=wanted))
    assert sorted(name for batch in batches for name in batch.column("image_id").to_pylist()) == [
        IDS[3],
        IDS[7],
    ]
    assert all(batch.schema.names == ["image_id"] for batch in batches)
    everything = rows_of(store)
    assert np.array_equal(rows_of(store, ids=wanted)[IDS[7]], everything[IDS[7]])


def test_failures_are_rows_of_their_own(url, file_format):
    store = make_features(url, IDS, failing=["bad.jpg"], file_format=file_format)
    place = {"image_id": "bad.jpg", "uri": "/images/bad.jpg", "version": "v1", "source": "/images"}
    why = {"stage": "decode", "code": "decode", "message": "made to fail"}
    assert store.failures().to_pylist() == [place | why]
    assert sorted(store.ids()) == IDS
    assert (store.totals["rows"], store.totals["failed"]) == (11, 1)


def test_a_column_that_is_not_there_is_named(url):
    store = make_features(url, IDS)
    with pytest.raises(RequestError, match="no column 'grids'.*expected some of image_id, uri"):
        list(store.scan(columns=["grids"]))


def test_a_column_that_is_named_twice_is_read_once(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS[:2], kept=pa.table({"price": [1, 2]}))
    for names in (["price", "image_id", "price"], ["image_id", "image_id"]):
        (batch,) = store.scan(names)
        assert batch.schema.names == list(dict.fromkeys(names))


def test_a_missing_file_of_kept_columns_is_one_sentence(tmp_path):
    store = make_features(str(tmp_path / "store"), IDS[:2], kept=pa.table({"price": [1, 2]}))
    (file,) = (tmp_path / "store" / "columns").iterdir()
    file.unlink()
    with pytest.raises(StoreError, match=f"^{file} is not there; expected all files of the snapshot "):
        list(store.scan(["price"]))
    (batch,) = store.scan(["image_id"])
    assert batch.num_rows == 2


def test_opening_a_place_without_a_snapshot_says_so(tmp_path):
    with pytest.raises(StoreError, match="no published snapshot"):
        Store.open(str(tmp_path / "nothing"))
    make_features(str(tmp_path / "store"), IDS)
    with pytest.raises(StoreError, match="has no snapshot 7; it has 1"):
        Store.open(str(tmp_path / "store"), snapshot=7)


def test_captions_come_back_as_structs(tmp_path):
    store = make_captions(
        str(tmp_path / "store"), {"a": "one red circle", "b": "two squares"}, keep_attention=True
    )
    rows = {row["image_id"]: row for batch in store.scan() for row in batch.to_pylist()}
    assert rows["b"]["captions"][0]["text"] == "two squares"
    assert rows["b"]["captions"][0]["attention"] == [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]


def test_other_tools_open_the_files(tmp_path):
    """Grids are plain FixedSizeBinary in Parquet, and datasets in HDF5."""
    make_features(str(tmp_path / "p"), IDS[:3], shard_size=8)
    (path,) = (tmp_path / "p/data").iterdir()
    table = pq.read_table(path)
    assert str(table.schema.field("grid").type) == "fixed_size_binary[24]"
    assert table.schema.field("grid").metadata[b"captionbeam.shape"] == b"[2, 2, 3]"
    assert table.schema.metadata[b"captionbeam.fingerprint"]
    make_features(str(tmp_path / "h"), IDS[:3], shard_size=8, file_format="hdf5")
    (path,) = (tmp_path / "h/data").iterdir()
    with h5py.File(path) as file:
        assert file["grid"].shape == (3, 2, 2, 3)
        assert file["grid"].chunks == (1, 2, 2, 3)
        assert file["grid"].dtype == np.float16
        assert [name.decode() for name in file["image_id"]] == IDS[:3]
        assert file.attrs["captionbeam.version"] == "2"
