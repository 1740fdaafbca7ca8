"""``--keep-columns``: what stood beside the images stands beside their rows, with its types."""

from __future__ import annotations

import duckdb
import pytest

from captionbeam.jobs.cli import main
from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.running.commands import captionbeam

ENCODER = ["--encoder", "efficientnet_lite0", "--image-size", "64", "--pooled"]
HEADER = "id,url,category,price,source\n"


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Two lists of drawn photographs: in the second one the price is a text in one row, and an image is not there."""
    folder = tmp_path_factory.mktemp("lists")
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encoded(drawn(60 + number, 32), "PNG"))
    (folder / "one.csv").write_text(HEADER + "p0,0.png,pets,1.5,shop\np1,1.png,cars,2,shop\n")
    (folder / "two.csv").write_text(
        HEADER + "p2,2.png,,n/a,\np3,3.png,pets,7.25,web\np4,gone.png,pets,1,web\n"
    )
    return folder


def rows(store, *names):
    """The columns of all rows by image id."""
    return {
        row["image_id"]: tuple(row[name] for name in names)
        for batch in Store.open(str(store)).scan(["image_id", *names])
        for row in batch.to_pylist()
    }


@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
def test_rows_and_failures_have_the_columns_with_their_types(lists, tmp_path, file_format):
    captionbeam("encode", lists / "one.csv", "--output", tmp_path / "f", "--keep-columns", "all", *ENCODER,
                "--format", file_format, "--shard-size", 1)  # fmt: skip
    store = Store.open(str(tmp_path / "f"))
    assert [(field.name, str(field.type)) for field in store.kept] == [
        ("category", "string"), ("price", "double"), ("input_source", "string"),
    ]  # fmt: skip
    assert rows(tmp_path / "f", "category", "price", "input_source") == {
        "p0": ("pets", 1.5, "shop"),
        "p1": ("cars", 2.0, "shop"),
    }


def test_types_are_those_of_all_sources_and_runs(lists, tmp_path):
    store = tmp_path / "f"
    keep = ["--output", store, "--keep-columns", "category,price", *ENCODER]
    captionbeam("encode", lists / "one.csv", *keep)
    captionbeam("encode", lists / "two.csv", *keep, "--warn-failures", 0.9)
    assert rows(store, "category", "price") == {
        "p0": ("pets", "1.5"),
        "p1": ("cars", "2"),
        "p2": (None, "n/a"),
        "p3": ("pets", "7.25"),
    }
    (failure,) = Store.open(str(store)).failures().to_pylist()
    assert (failure["image_id"], failure["code"], failure["category"], failure["price"]) == (
        "p4", "not_found", "pets", "1",
    )  # fmt: skip


def test_none_ends_the_columns_and_naming_them_brings_them_back(lists, tmp_path):
    captionbeam("encode", lists / "one.csv", "--output", tmp_path / "f", "--keep-columns", "price", *ENCODER)
    names = []
    for arguments in (["--keep-columns", "none"], [], ["--keep-columns", "price,category"], []):
        done = captionbeam("refresh", tmp_path / "f", *arguments)
        names.append(Store.open(str(tmp_path / "f")).kept.names)
        assert ("nothing to do" in done.stdout) == (not arguments)
    assert names == [[], [], ["category", "price"], ["category", "price"]]
    assert Store.open(str(tmp_path / "f@1")).kept.names == ["price"]
    captionbeam("store", "verify", tmp_path / "f")


def test_other_tools_read_the_columns_beside_the_rows(lists, tmp_path):
    captionbeam("encode", lists / "one.csv", "--output", tmp_path / "f", "--keep-columns", "price", *ENCODER)
    found = duckdb.sql(
        f"select image_id, columns.price from '{tmp_path}/f/columns/*.parquet' order by 1"
    ).fetchall()
    assert found == [("p0", 1.5), ("p1", 2.0)]


@pytest.mark.parametrize(
    ("source", "names", "said"),
    [
        (
            "one.csv",
            "prize",
            "has no column 'prize' to keep; expected some of 'id', 'url', 'category', 'price', 'source'",
        ),
        (
            "0.png",
            "all",
            "no source has columns to keep; expected a list, Parquet, a COCO file or a tar with JSON",
        ),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(lists, tmp_path, capsys, source, names, said):
    command = ["encode", lists / source, "--output", tmp_path / "f", "--keep-columns", names, *ENCODER]
    assert main([str(word) for word in command]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
