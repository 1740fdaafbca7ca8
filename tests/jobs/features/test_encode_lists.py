"""``captionbeam encode`` and ``refresh`` on lists: columns as people name them, and images with one id."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.data.stores import rows_of
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


def grids(store) -> dict[str, list[float]]:
    return {name: row.tolist() for name, row in rows_of(Store.open(str(store))).items()}


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


def test_rows_under_other_ids_are_said_and_adopted(photos):
    names = [f"{photos}/a/{number}.jpg" for number in range(3)]
    source, store = photos / "list.csv", photos / "store"
    source.write_text("\n".join(["url", *names]))
    encode(source, store)
    before = grids(store)
    source.write_text("\n".join(["url,ID", *(f"{name},P{n}" for n, name in enumerate(names))]))
    said = (
        f"note: {store} has 3 images of {source} under other ids (now 'P0', there '{names[0][1:]}'): they are "
        "processed again under the new ids; with --adopt-ids, their rows are copied"
    )
    plan = captionbeam("refresh", store, "--plan")
    assert said in plan.stderr
    assert "new │ 3" in " ".join(plan.stdout.replace("│ new", "new").split())
    plan = captionbeam("refresh", store, "--plan", "--adopt-ids")
    assert said not in plan.stderr
    assert "under another name or source │ 3" in " ".join(plan.stdout.split())
    assert "this refresh would not be published" not in plan.stdout
    captionbeam("refresh", store, "--adopt-ids")
    assert (totals(store)["reused"], totals(store)["images"]) == (3, 3)
    assert uris(store) == {f"P{number}": name for number, name in enumerate(names)}
    assert grids(store) == {f"P{number}": before[name[1:]] for number, name in enumerate(names)}
    done = captionbeam("refresh", store)
    assert "nothing to do: all 3 images" in done.stdout
    assert "under other ids" not in done.stderr
    captionbeam("store", "verify", store)
    (photos / "old.txt").write_text(names[0][1:])
    captionbeam("store", "purge", store, "--ids", photos / "old.txt")
    assert uris(store) == {f"P{number}": name for number, name in enumerate(names)}
    (photos / "new.txt").write_text("P1")
    captionbeam("store", "purge", store, "--ids", photos / "new.txt")
    assert sorted(uris(store)) == ["P0", "P2"]
    captionbeam("store", "verify", store)


@pytest.mark.parametrize("held_back", [[], ["--adopt-ids", "--max-failures", "0"]])
def test_ids_are_adopted_after_a_refresh_that_was_held_back(photos, held_back):
    names = [f"{photos}/a/{number}.jpg" for number in range(3)]
    source, store = photos / "list.csv", photos / "store"
    source.write_text("\n".join(["url", *names]))
    encode(source, store)
    before = grids(store)
    source.write_text("\n".join(["url,id", *(f"{name},P{n}" for n, name in enumerate(names)), "gone.jpg,P3"]))
    refused = captionbeam("refresh", store, *held_back, status=1)
    assert ("1 of 4 images failed" if held_back else "3 of 3 images are gone") in refused.stderr
    captionbeam("refresh", store, "--adopt-ids", "--warn-failures", 1)
    assert totals(store)["reused"] == (0 if held_back else 3)
    assert grids(store) == {f"P{number}": before[name[1:]] for number, name in enumerate(names)}
    assert "nothing to do" in captionbeam("refresh", store, "--warn-failures", 1).stdout


def test_a_list_under_a_new_name_is_said_to_add_images_again_and_may_take_the_place_of_the_old_one(photos):
    names = [f"{photos}/a/{number}.jpg" for number in range(3)]
    old, new, store = photos / "list.csv", photos / "list-v2.csv", photos / "store"
    old.write_text("\n".join(["url,price", *(f"{name},5" for name in names)]))
    encode(old, store, "--keep-columns", "all")
    before = grids(store)
    new.write_text("\n".join(["url,id,price", *(f"{name},P{number},6" for number, name in enumerate(names))]))
    again = f"captionbeam refresh {new} --output {store} --retire {old} --adopt-ids --keep-columns all"
    said = (
        f"note: {store} has 3 images of {new} under other ids from {old} (now 'P0', there '{names[0][1:]}'): they are "
        f"added a second time; if it takes the place of {old}: {again}"
    )
    assert said in captionbeam("refresh", new, "--output", store, "--plan").stderr
    planned = captionbeam("refresh", new, "--output", store, "--retire", old, "--plan").stderr
    assert f"there {names[0][1:]!r}): they are processed again under the new ids; with --adopt-ids" in planned
    assert said in captionbeam("refresh", new, "--output", store, "--plan", "--adopt-ids").stderr
    _, *command = again.split()
    done = captionbeam(*command)
    assert "under other ids" not in done.stderr
    assert totals(store)["reused"] == 3
    assert grids(store) == {f"P{number}": before[name[1:]] for number, name in enumerate(names)}
    assert [batch.to_pydict() for batch in Store.open(str(store)).scan(["price"])] == [{"price": [6, 6, 6]}]
    assert "under other ids" not in captionbeam("refresh", store).stderr


def test_images_that_two_lists_of_a_command_share_are_not_said_to_be_added_again(photos):
    one, two = photos / "one.csv", photos / "two.csv"
    one.write_text(f"url,id\n{photos}/a/0.jpg,P0")
    encode(one, photos / "store")
    two.write_text(f"url,id\n{photos}/a/0.jpg,Q0")
    done = captionbeam("encode", one, two, "--output", photos / "store", *ENCODER)
    assert "under other ids" not in done.stderr


def test_encode_adopts_ids_too_but_never_rows_of_another_source(photos):
    names = [f"{photos}/a/{number}.jpg" for number in range(3)]
    store = photos / "store"
    (photos / "list.csv").write_text("\n".join(["url", *names]))
    encode(photos / "list.csv", store)
    (photos / "list.csv").write_text("\n".join(["url,id", *(f"{name},P{n}" for n, name in enumerate(names))]))
    (photos / "other.csv").write_text(f"url,id\n{names[0]},Q")
    encode(photos / "other.csv", store, "--adopt-ids")
    assert sorted(uris(store)) == sorted([*(name[1:] for name in names), "Q"])
    encode(photos / "list.csv", store, "--adopt-ids")
    assert totals(store)["reused"] == 3
    assert sorted(uris(store)) == ["P0", "P1", "P2", "Q"]
