"""The loader's promises: which image comes when and on which rank, and how little is held meanwhile."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.data.loader import (
    READ_AHEAD,
    READY_BATCHES,
    CaptionTokens,
    FeatureReader,
    prefetched,
)
from captionbeam.capmodel.data.pairing import pair
from captionbeam.capmodel.data.sampler import shuffled_steps
from captionbeam.schemas.errors import RequestError
from tests.builders.data.stores import make_captions, make_features
from tests.builders.model.training import make_tokens, numbered_captions

groups = st.lists(st.integers(0, 12), min_size=1, max_size=120).map(np.array)
sizes = {"batch": st.integers(1, 40), "mix": st.integers(1, 16), "world": st.integers(1, 5)}


@given(group=groups, seed=st.integers(0, 5), epoch=st.integers(0, 5), **sizes)
def test_every_image_comes_once_an_epoch_and_every_rank_has_as_many_steps(
    group, seed, epoch, batch, mix, world
):
    ranks = [shuffled_steps(group, batch, mix, seed, epoch, rank, world) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {-(-len(group) // batch)}
    assert sorted(np.concatenate([np.concatenate(steps) for steps in ranks])) == list(range(len(group)))
    for parts in zip(*ranks, strict=True):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
    totals = [sum(map(len, parts)) for parts in zip(*ranks, strict=True)]
    assert max(totals) <= batch
    assert max(totals) - min(totals) <= 1


@given(group=groups, **sizes)
def test_a_step_has_the_same_images_whatever_the_number_of_ranks(group, batch, mix, world):
    alone = shuffled_steps(group, batch, mix, 1, 2)
    shared = [shuffled_steps(group, batch, mix, 1, 2, rank, world) for rank in range(world)]
    together = [np.concatenate(parts) for parts in zip(*shared, strict=True)]
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


CAPTIONS = numbered_captions(train=50, val=7)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_tokens(str(tmp_path_factory.mktemp("tokens")), CAPTIONS)


@pytest.fixture(scope="module", params=["parquet", "hdf5"])
def store(request, tmp_path_factory):
    return make_features(str(tmp_path_factory.mktemp("store")), list(CAPTIONS), file_format=request.param)


def reader_of(store, table, split="train"):
    samples = pair(store, table, 0.0)[split]
    return FeatureReader(store, CaptionTokens(table.table["tokens"]), samples)


def grids_of(store):
    return {
        name: grid.reshape(-1, grid.shape[-1])
        for batch in store.scan()
        for name, grid in zip(
            batch.column("image_id").to_pylist(), batch.column("grid").to_numpy_ndarray(), strict=True
        )
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_image_comes_with_its_own_grid_and_captions(store, table, split):
    expected, ids = grids_of(store), table.table["image_id"].to_pylist()
    reader = reader_of(store, table, split)
    steps = shuffled_steps(reader.samples.group, 6, 3, 0, 0)
    seen = []
    for batch in reader.batches(steps):
        for row, grid, captions in zip(
            batch.rows, batch.features.numpy(), batch.tokens.tolist(), strict=True
        ):
            seen.append(ids[row])
            assert np.array_equal(grid, expected[ids[row]])
            assert [[t for t in caption if t] for caption in captions] == table.table["tokens"][row].as_py()
    assert sorted(seen) == table.image_ids(split)


def test_short_captions_and_images_with_fewer_are_padded(tmp_path):
    table = make_tokens(
        str(tmp_path / "t"), {"a": ("train", ["one two three", "one"]), "b": ("train", ["two"])}
    )
    one, two, three = (table.table["tokens"][0].as_py()[0][i] for i in (1, 2, 3))
    assert CaptionTokens(table.table["tokens"]).padded([0, 1]).tolist() == [
        [[2, one, two, three, 3], [2, one, 3, 0, 0]],
        [[2, two, 3, 0, 0], [0, 0, 0, 0, 0]],
    ]


def test_a_part_without_images_is_one_blank_image_that_counts_nothing(store, table):
    batch = next(reader_of(store, table).batches([np.empty(0, np.int64)]))
    assert (batch.features.shape, batch.tokens.tolist(), len(batch.rows)) == ((1, 4, 3), [[[2, 3]]], 0)


class WatchedReader(FeatureReader):
    """Counts the row groups that are in memory."""

    alive, most, reads = 0, 0, 0
    lock = threading.Lock()

    def read_group(self, number):
        grids = super().read_group(number)
        with self.lock:
            self.alive += 1
            self.reads += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(grids, self.drop)
        return grids

    def drop(self):
        with self.lock:
            self.alive -= 1


def test_never_more_groups_in_memory_than_mixed_and_read_ahead(tmp_path):
    captions = numbered_captions(train=400, val=4)
    store = make_features(str(tmp_path / "store"), list(captions), shard_size=4)
    table = make_tokens(str(tmp_path / "tokens"), captions)
    reader = WatchedReader(store, CaptionTokens(table.table["tokens"]), pair(store, table, 0.0)["train"])
    mix, batch = 8, 4
    for _ in reader.batches(shuffled_steps(reader.samples.group, batch, mix, 0, 0)):
        pass
    gc.collect()
    assert reader.reads == len(set(reader.samples.group.tolist())) == 101
    assert reader.most <= mix + READ_AHEAD + batch // 4 + 1
    assert reader.alive == 0


def test_a_stopped_reader_leaves_no_thread_behind(store, table):
    before = threading.active_count()
    batches = reader_of(store, table).batches([np.array([i]) for i in range(50)])
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_prefetching_goes_only_so_far_ahead_and_passes_errors_on():
    made = []

    def items():
        for number in itertools.count():
            made.append(number)
            if number == 5:
                raise RequestError("no sixth")
            yield number

    ahead = prefetched(items(), READY_BATCHES)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert made == list(range(1 + READY_BATCHES))
    with pytest.raises(RequestError, match="no sixth"):
        list(ahead)


def test_images_without_their_other_half_are_refused_beyond_a_share(tmp_path, table):
    names = [name for name in CAPTIONS if name != "0011.jpg"]
    store = make_features(str(tmp_path / "store"), [*names, "other.jpg"], failing=["0011.jpg"])
    with pytest.raises(RequestError) as caught:
        pair(store, table, 0.01)
    assert str(caught.value) == (
        f"2 of 58 images lack their other half: 1 with captions but no features in {store.url}, "
        f"snapshot 1 ('0011.jpg' for one), 1 with features but no captions in {table.url} "
        "('other.jpg' for one); expected at most a share of 0.01 (--max-missing)"
    )
    assert len(pair(store, table, 0.04)["train"]) == 49


def test_an_empty_split_and_a_store_of_captions_are_refused(tmp_path, table):
    store = make_features(str(tmp_path / "store"), table.image_ids("train"))
    with pytest.raises(RequestError, match=r"no val image of .* has features in .*, snapshot 1"):
        pair(store, table, 1.0)
    with pytest.raises(RequestError, match="is a store of captions; expected one of features"):
        pair(make_captions(str(tmp_path / "c"), {"0001.jpg": "a"}), table, 1.0)


def test_pooled_features_are_one_cell(tmp_path, table):
    reader = reader_of(make_features(str(tmp_path / "pooled"), list(CAPTIONS), shape=(5,)), table)
    assert next(reader.batches([np.arange(3)])).features.shape == (3, 1, 5)


def test_ids_of_a_zip_find_their_captions_by_name(tmp_path, table):
    store = make_features(str(tmp_path / "store"), [f"train2014/{name}" for name in CAPTIONS])
    samples = pair(store, table, 0.0)
    assert {split: len(samples[split]) for split in samples} == {"train": 50, "val": 7}


def test_two_rows_of_captions_for_one_image_are_refused(tmp_path):
    table = make_tokens(str(tmp_path / "t"), {"a/1.jpg": ("train", ["one"]), "b/1.jpg": ("val", ["two"])})
    store = make_features(str(tmp_path / "store"), ["1.jpg"])
    with pytest.raises(RequestError, match=r"'a/1.jpg' and 'b/1.jpg' of .* both fit image '1.jpg'"):
        pair(store, table, 1.0)


def test_test_images_need_no_features_but_count_as_captioned(tmp_path):
    captions = {**CAPTIONS, "t1": ("test", ["some"]), "t2": ("test", ["more"])}
    store = make_features(str(tmp_path / "store"), [*CAPTIONS, "t1"])
    table = make_tokens(str(tmp_path / "t"), captions)
    assert {split: len(found) for split, found in pair(store, table, 0.0).items()} == {"train": 50, "val": 7}


def test_epochs_and_seeds_differ_and_repeat():
    group = np.repeat(np.arange(20), 8)
    orders = {
        (seed, epoch): np.concatenate(shuffled_steps(group, 16, 4, seed, epoch)).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert np.concatenate(shuffled_steps(group, 16, 4, 1, 1)).tolist() == orders[1, 1]
