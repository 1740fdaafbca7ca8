"""The cache of decoded grids: the same bits as the store's, decoded once, shared, never half there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captionbeam.capmodel.data.cache import GridCache
from captionbeam.capmodel.data.loader import CaptionTokens, FeatureReader
from captionbeam.capmodel.data.pairing import pair
from captionbeam.capmodel.data.sampler import shuffled_steps
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.tokens import TokenTable
from tests.builders.model.training import make_data, tiny_options, train_alone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = make_data(tmp_path_factory.mktemp("data"))
    store, table = Store.open(made["features"]), TokenTable.open(made["tokens"])
    return store, CaptionTokens(table.table["tokens"]), pair(store, table, 1.0)["train"]


def epoch(reader):
    steps = shuffled_steps(reader.samples.group, 8, 4, seed=0, epoch=1)
    return [batch.features.numpy().tobytes() for batch in reader.batches(steps)]


def opened(data, folder):
    store, tokens, samples = data
    return FeatureReader(store, tokens, samples, GridCache(str(folder), store, samples.groups))


def test_an_epoch_through_the_cache_has_the_same_bits(data, tmp_path):
    expected = epoch(FeatureReader(*data))
    reader = opened(data, tmp_path)
    assert epoch(reader) == epoch(reader) == expected
    assert epoch(opened(data, tmp_path)) == expected  # a later run's


def test_each_group_is_decoded_once_for_all_readers(data, tmp_path, monkeypatch):
    decoded = []
    original = Store.read_row_group

    def read(self, group, columns=None):
        decoded.append(group)
        return original(self, group, columns)

    monkeypatch.setattr(Store, "read_row_group", read)
    for reader in (opened(data, tmp_path), opened(data, tmp_path)):
        epoch(reader)
        epoch(reader)
    assert len(decoded) == len(set(decoded)) == len(set(data[2].group.tolist()))


def test_a_disk_without_room_is_refused(data, tmp_path):
    store, _, samples = data
    huge = [group._replace(rows=10**12) for group in samples.groups]
    with pytest.raises(RequestError, match="expected a cache folder on a disk with room"):
        GridCache(str(tmp_path), store, huge)


def test_training_with_a_cache_gives_the_same_weights(tmp_path):
    data = make_data(tmp_path, train=20, val=4)
    plain, _ = train_alone(tiny_options(data, tmp_path / "a", epochs=2))
    options = tiny_options(data, tmp_path / "b", epochs=2, cache=str(tmp_path / "grids"))
    cached, _ = train_alone(options)
    assert len(list((tmp_path / "grids").iterdir())) == 2
    assert options.identity() == tiny_options(data, tmp_path / "a", epochs=2).identity()
    for name, value in plain.decoder.state_dict().items():
        assert torch.equal(cached.decoder.state_dict()[name], value)


def test_a_group_whose_decoding_fails_is_not_taken_for_done(data, tmp_path):
    store, _, samples = data
    cache = GridCache(str(tmp_path), store, samples.groups)

    def fail(group):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.read(0, fail)
    rows = np.ones((samples.groups[0].live, 4, 3), np.float16)
    assert np.array_equal(cache.read(0, lambda group: rows), rows)


def test_another_snapshot_has_a_file_of_its_own(data, tmp_path):
    store, _, samples = data
    GridCache(str(tmp_path), store, samples.groups)
    assert len(list(tmp_path.iterdir())) == 2
    other = Store(store.url, type(store.snapshot)(**{**vars(store.snapshot), "run": "another"}))
    GridCache(str(tmp_path), other, samples.groups)
    assert len(list(tmp_path.iterdir())) == 4
