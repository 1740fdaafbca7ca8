"""A store as torch datasets: each row once, whatever the workers, their start method and the ranks."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from captionbeam.capmodel.data import FeatureDataset, IterableFeatureDataset
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from tests.builders.data.stores import make_captions, make_features

IDS = [f"{number:02d}.jpg" for number in range(23)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_features(str(tmp_path_factory.mktemp("store")), IDS, (2, 2, 3))


def expected(store: Store):
    return {
        image_id: grid.tobytes()
        for batch in store.scan()
        for image_id, grid in zip(
            batch.column("image_id").to_pylist(), batch.column("grid").to_numpy_ndarray(), strict=True
        )
    }


def rows(loader):
    """Each row's id and bytes in order; rows are float16 grids."""
    found = []
    for ids, features in loader:
        assert (features.dtype, features.shape[1:]) == (torch.float16, (2, 2, 3))
        found += zip(ids, [grid.numpy().tobytes() for grid in features], strict=True)
    return found


def loader(dataset, start=None, workers=2, **options):
    return DataLoader(
        dataset, batch_size=4, num_workers=workers if start else 0, multiprocessing_context=start, **options
    )


@pytest.mark.parametrize("start", [None, "spawn"])
def test_map_style_rows_come_in_the_samplers_order(store, start):
    dataset = FeatureDataset(store.url)
    assert (len(dataset), sorted(dataset.image_ids)) == (23, IDS)
    found = rows(loader(dataset, start, sampler=RandomSampler(dataset)))
    assert (len(found), dict(found)) == (23, expected(store))
    assert [name for name, _ in rows(loader(dataset))] == dataset.image_ids


def test_rows_of_hdf5_of_int8_and_beside_kept_columns_are_as_the_store_gives_them(tmp_path):
    kept = pa.table({"price": list(range(len(IDS)))})
    for name, options in (
        ("hdf5", {"file_format": "hdf5"}),
        ("int8", {"dtype": "int8"}),
        ("kept", {"kept": kept}),
    ):
        store = make_features(f"{tmp_path}/{name}", IDS, (2, 2, 3), **options)
        assert dict(rows(loader(FeatureDataset(store)))) == expected(store)


def test_an_index_outside_is_refused(store):
    dataset = FeatureDataset(store)
    assert dataset[-1][0] == dataset.image_ids[-1]
    with pytest.raises(IndexError, match="row 23 of 23; expected from -23 to 22"):
        dataset[23]


@pytest.mark.parametrize(("start", "cached"), [(None, False), ("fork", True), ("spawn", False)])
def test_each_row_comes_once_over_all_ranks_and_workers(store, tmp_path, start, cached):
    found = []
    for rank in range(2):
        cache = str(tmp_path) if cached else None
        dataset = IterableFeatureDataset(store.url, cache, shuffle=True, rank=rank, world=2)
        own = rows(loader(dataset, start))
        assert len(own) == len(dataset)
        found += own
    assert (len(found), dict(found)) == (23, expected(store))


@pytest.mark.parametrize("start", [None, "spawn"])
def test_the_order_depends_on_seed_and_epoch_and_persistent_workers_see_the_epoch(store, start):
    dataset = IterableFeatureDataset(store, shuffle=True, seed=3, mix=2)
    kept = loader(dataset, start, workers=1, persistent_workers=start is not None)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append([name for name, _ in rows(kept)])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == IDS
    other = IterableFeatureDataset(store, shuffle=True, seed=4, mix=2)
    assert [name for name, _ in rows(loader(other))] != orders[0]


def test_ranks_are_those_of_torch_distributed(store, tmp_path):
    dataset = IterableFeatureDataset(store)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        assert copy.deepcopy(dataset)._ranks() == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
    assert [name for name, _ in dataset] == FeatureDataset(store).image_ids
    with pytest.raises(RequestError, match="rank is 2 and world 2; expected both"):
        IterableFeatureDataset(store, rank=2, world=2)


def test_a_pickle_has_no_rows(store):
    dataset = FeatureDataset(store)
    before = len(pickle.dumps(dataset))
    np.testing.assert_array_equal(dataset[0][1], copy.deepcopy(dataset)[0][1])
    assert len(pickle.dumps(dataset)) <= before + 2000  # the manifest, read meanwhile


def test_a_store_of_captions_is_refused(tmp_path):
    made = make_captions(str(tmp_path), {"a.jpg": "a dog"})
    with pytest.raises(RequestError, match="is a store of captions; expected one of features"):
        FeatureDataset(made)
