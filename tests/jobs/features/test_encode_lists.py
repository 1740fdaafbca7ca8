"""``captionbeam encode`` and ``refresh`` on lists: columns as people name them, and images with one id."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.running.commands import captionbeam

ENCODER = ["--encoder", "efficientnet_lite0", "--precision", "fp32", "--pooled", "--image-size", 64]


@pytest.fixture
def photos(tmp_path):
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        for number in range(3):
            data = encoded(drawn(40 + number + 10 * (host == "b"), 32), "JPEG")
            (tmp_path / host / f"{number}.jpg").write_bytes(data)
    return tmp_path


def encode(source, store, *arguments, status=0):
    return captionbeam("encode", source, "--output", store, *ENCODER, *arguments, status=status)


def totals(store) -> dict:
    newest = max(Path(store).glob("plans/*/totals.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def uris(store) -> dict[str, str]:
    batches = Store.open(str(store)).scan(["image_id", "uri"])
    return {row["image_id"]: row["uri"] for batch in batches for row in batch.to_pylist()}


def test_lists_with_headers_as_people_write_them_simply_work(photos):
    names = [str(photos / "a" / f"{number}.jpg") for number in range(3)]
    products = {"Image_Url": names, "product_id": ["P0", "P1", "P2"], "price": [1.5, 2.0, 9.0]}
    pq.write_table(pa.table(products), photos / "products.parquet")
    (photos / "list.csv").write_text("IMAGE PATH;product_id\n" + "".join(f"{name};P\n" for name in names))
    (photos / "other.csv").write_text("Nummer;Foto\n" + "".join(f"1;{name}\n" for name in names))
    for kind in ("products.parquet", "list.csv", "other.csv"):
        done = encode(photos / kind, photos / f"{kind}-store")
        assert uris(photos / f"{kind}-store") == {name.removeprefix("/"): name for name in names}
        said = f"{photos / kind}: the URIs are in the column 'Foto', the only one that holds images"
        assert (said in done.stderr) == (kind == "other.csv")


def test_the_first_of_images_with_one_id_is_taken_and_a_refresh_follows(photos):
    lines = ["id,url", f"x,{photos}/a/0.jpg", f"y,{photos}/a/1.jpg", f"x,{photos}/b/0.jpg"]
    (photos / "list.csv").write_text("\n".join(lines))
    source, store = photos / "list.csv", photos / "store"
    refused = encode(source, store, status=2)
    assert refused.stderr.splitlines()[-1] == (
        f"captionbeam: two images have the id 'x': {photos}/a/0.jpg (row 1 of {source}) and {photos}/b/0.jpg (row 3 "
        f"of {source}); expected one, or --on-duplicate first"
    )
    done = encode(source, store, "--on-duplicate", "first")
    example = f"{photos}/b/0.jpg (row 3 of {source}) has the id of {photos}/a/0.jpg (row 1 of {source})"
    assert f"1 image passed over, as another has its id ({example})" in done.stdout
    assert totals(store)["duplicates_passed_over"] == 1
    assert uris(store) == {"x": f"{photos}/a/0.jpg", "y": f"{photos}/a/1.jpg"}
    source.write_text("\n".join([*lines, f"x,{photos}/b/1.jpg", f"z,{photos}/b/2.jpg"]))
    plan = captionbeam("refresh", store, "--plan")
    assert "2 images passed over, as others have their ids" in plan.stdout
    captionbeam("refresh", store)
    assert totals(store)["duplicates_passed_over"] == 2
    assert uris(store) == {"x": f"{photos}/a/0.jpg", "y": f"{photos}/a/1.jpg", "z": f"{photos}/b/2.jpg"}


def test_the_first_source_is_that_which_is_named_first(photos):
    captionbeam("encode", photos / "b", photos / "a", "--output", photos / "store", *ENCODER,
                "--on-duplicate", "first")  # fmt: skip
    assert uris(photos / "store") == {f"{number}.jpg": f"{photos}/b/{number}.jpg" for number in range(3)}
    assert totals(photos / "store")["duplicates_passed_over"] == 3
