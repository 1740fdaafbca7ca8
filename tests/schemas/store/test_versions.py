"""Stores that were written earlier: one of each schema version is kept and has to be read; newer ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.store import layout
from tests.builders.data.history import CAPTIONS, GRID, advance, kept_columns, outcomes, value_of

STORES = Path(__file__).parents[2] / "fixtures" / "stores"
FIELDS = {"features-parquet": GRID, "features-hdf5": GRID, "captions-parquet": CAPTIONS}
EXPECTED = {
    1: ({"a.jpg": "1", "ünï.jpg": None}, {"deep/b.jpg": "timeout"}),
    2: ({"a.jpg": "2", "deep/b.jpg": "1", "ünï.jpg": None}, {"c.jpg": "decode"}),
}


def rows(versions, field):
    made = {name: value_of(name, version, field) for name, version in versions.items()}
    return {
        name: (version, made[name].tolist() if field is GRID else made[name])
        for name, version in versions.items()
    }


def read_all(store):
    return outcomes(store), store.ids()


def test_there_is_a_stored_store_of_each_version():
    expected = [f"version-{number}" for number in range(1, arrow.SCHEMA_VERSION + 1)]
    assert sorted(path.name for path in STORES.iterdir()) == expected
    assert all({path.name for path in (STORES / name).iterdir()} == set(FIELDS) for name in expected)


@pytest.mark.parametrize("version", [path.name for path in sorted(STORES.iterdir())])
@pytest.mark.parametrize("name", FIELDS)
def test_a_stored_store_is_read_row_by_row(version, name):
    url, field = str(STORES / version / name), FIELDS[name]
    assert verify(url).problems == []
    for number, (versions, failures) in EXPECTED.items():
        assert outcomes(Store.open(url, number)) == (rows(versions, field), failures)
    assert Store.open(f"{url}@prod").snapshot_id == 1
    assert sorted(Store.open(url).ids()) == sorted(EXPECTED[2][0])


@pytest.mark.parametrize("version", [path.name for path in sorted(STORES.iterdir())])
@pytest.mark.parametrize("name", FIELDS)
def test_a_stored_store_is_added_to(version, name, tmp_path):
    url = shutil.copytree(STORES / version / name, tmp_path / "store")
    store = advance(str(url), {"new": "1"}, FIELDS[name], file_format=name.split("-")[1])
    assert outcomes(store)[0] == rows({**EXPECTED[2][0], "new": "1"}, FIELDS[name])
    assert verify(str(url)).problems == []


@pytest.mark.parametrize("name", ["features-parquet", "captions-parquet"])
def test_kept_columns_of_a_stored_store_are_read(name):
    """The third snapshot has other columns of a shard of the first one."""
    url, cheap = str(STORES / "version-2" / name), {"price": 1, "shop": "Ä"}
    assert kept_columns(Store.open(url, 1)) == {
        "a.jpg": cheap,
        "deep/b.jpg": {"price": 2, "tags": ["x", "y"]},
        "ünï.jpg": {},
    }
    newest = Store.open(url)
    assert kept_columns(newest) == {
        "a.jpg": cheap,
        "deep/b.jpg": {"price": 2, "tags": ["x", "y"]},
        "c.jpg": {"price": 2.5},
        "ünï.jpg": {"price": 7, "input_source": "list"},
    }
    assert [(field.name, str(field.type)) for field in newest.kept] == [
        ("price", "double"),
        ("shop", "string"),
        ("input_source", "string"),
        ("tags", "list<item: string>"),
    ]


def test_a_newer_snapshot_is_refused_with_one_sentence(tmp_path, capsys):
    url = advance(str(tmp_path / "store"), {"a": "1"}).url
    path = Path(url, layout.snapshot_name(1))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9, "of_the_future": 1}))
    assert cli.main(["store", "show", url]) == 2
    said = capsys.readouterr().err
    assert f"has version 9; this captionbeam reads up to {arrow.SCHEMA_VERSION}: upgrade it" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("folder", ["data", "index", "manifests"])
def test_a_newer_file_is_refused_with_one_sentence(tmp_path, folder):
    store = advance(str(tmp_path / "store"), {"a": "1"})
    (path,) = Path(store.url, folder).iterdir()
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, arrow.VERSION_KEY: "9"}), path)
    with pytest.raises(StoreError, match="has version 9; this captionbeam reads up to"):
        read_all(Store.open(store.url))


def test_a_newer_hdf5_file_is_refused_with_one_sentence(tmp_path):
    h5py = pytest.importorskip("h5py")
    store = advance(str(tmp_path / "store"), {"a": "1"}, file_format="hdf5")
    (path,) = Path(store.url, "data").iterdir()
    with h5py.File(path, "r+") as file:
        file.attrs[arrow.VERSION_KEY.decode()] = "9"
    with pytest.raises(StoreError, match="has version 9"):
        outcomes(Store.open(store.url))
