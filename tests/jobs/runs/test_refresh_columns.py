"""``captionbeam refresh`` of a list whose prices changed: columns are written anew, no image is fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.running.commands import captionbeam, killed_at

IMAGES = 12
ENCODER = ["--encoder", "efficientnet_lite0", "--precision", "fp32", "--pooled", "--image-size", 64,
           "--shard-size", 4]  # fmt: skip
PRICES = {f"p{number}": number for number in range(IMAGES)}
CHANGED = {**PRICES, "p5": 50, "p6": 60}


def write_list(folder: Path, prices: dict[str, object], shop: str = "north") -> Path:
    rows = [f"{name},photos/{name}.jpg,{price},{shop}" for name, price in prices.items()]
    (folder / "products.csv").write_text("\n".join(["id,url,price,shop", *rows]) + "\n")
    return folder / "products.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A list of products, a store with their columns, and one without, whose photographs are gone."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        (folder / "photos" / f"p{number}.jpg").write_bytes(encoded(drawn(40 + number, 32), "JPEG"))
    products = write_list(folder, PRICES)
    captionbeam("encode", products, "--output", folder / "plain", *ENCODER)
    captionbeam("encode", products, "--output", folder / "kept", *ENCODER, "--keep-columns", "all")
    shutil.rmtree(folder / "photos")
    return folder


@pytest.fixture
def store(made, tmp_path):
    """A copy of the store with columns, and the list as it was."""
    write_list(made, PRICES)
    shutil.copytree(made / "kept", tmp_path / "store")
    return tmp_path / "store"


def refresh(store, *arguments):
    return captionbeam("refresh", store, *arguments).stdout


def prices(store, number=None):
    opened = Store.open(str(store), number)
    return {
        row["image_id"]: row["price"]
        for batch in opened.scan(["image_id", "price"])
        for row in batch.to_pylist()
    }


def record(store):
    """The record of the newest snapshot's run."""
    return json.loads((store / "plans" / Store.open(str(store)).snapshot.run / "totals.json").read_text())


def sound(store):
    assert verify(str(store)).problems == []
    return True


def test_changed_prices_fetch_nothing_and_encode_nothing(made, store):
    write_list(made, CHANGED)
    planned = refresh(store, "--plan")
    assert "2, whose columns alone are rewritten" in planned
    assert "nothing to do but rewriting kept columns" in planned
    assert prices(store) == PRICES
    done = refresh(store)
    assert "0 new, 0 changed, 0 gone, 10 unchanged, 2 with changed columns" in done
    assert "2 images rewritten in 1 shard" in done
    found = record(store)
    assert [found[name] for name in ("images", "rows", "bytes_read", "shards")] == [0, 0, 0, 0]
    assert {**found["columns"], "bytes": 0} == {"images": 2, "shards": 1, "bytes": 0, "left": 0}
    assert found["bytes_written"] == found["columns"]["bytes"] > 0
    assert found["listing"]["columns"] == 2
    assert (prices(store), prices(store, 1)) == (CHANGED, PRICES)
    assert sound(store)
    differs = json.loads(captionbeam("store", "diff", store, 1, 2, "--ids", "--json").stdout)
    assert differs["ids"] == {**{kind: [] for kind in differs["ids"]}, "columns": ["p5", "p6"]}
    assert "nothing to do" in refresh(store)


def test_a_canary_rewrites_nothing(made, store):
    write_list(made, {**CHANGED, "new": 1})
    tried = refresh(store, "--canary", 3)
    assert "1 images in" in tried
    assert "1 not_found" in tried
    assert prices(store) == PRICES


@pytest.mark.parametrize("command", ["encode", "refresh"])
def test_a_store_without_columns_gets_them_by_the_option(made, tmp_path, command):
    products = write_list(made, PRICES)
    shutil.copytree(made / "plain", tmp_path / "store")
    keep = [products, "--output", tmp_path / "store", *ENCODER, "--keep-columns", "price"]
    assert "12 images rewritten in 3 shards" in captionbeam(command, *keep).stdout
    assert prices(tmp_path / "store") == PRICES
    assert record(tmp_path / "store")["bytes_read"] == 0
    assert sound(tmp_path / "store")


def test_other_columns_by_the_option_replace_the_former_ones(made, store):
    products = write_list(made, PRICES)
    captionbeam("refresh", products, "--output", store, "--keep-columns", "shop")
    opened = Store.open(str(store))
    assert opened.kept.names == ["shop"]
    assert {row for batch in opened.scan(["shop"]) for row in batch.column(0).to_pylist()} == {"north"}
    assert sound(store)


@pytest.mark.parametrize("point", ["while rewriting columns", "between the last commit and the snapshot"])
def test_a_refresh_killed_while_it_writes_columns_loses_nothing(made, store, point):
    write_list(made, dict.fromkeys(PRICES, 7))
    killed_at(point, 2, "refresh", store)
    assert prices(store) == PRICES
    assert sound(store)
    refresh(store)
    assert prices(store) == dict.fromkeys(PRICES, 7)
    assert sound(store)
