"""``captionbeam store retry-failures``: a store does its failures again with what it holds itself."""

from __future__ import annotations

import io
import shutil
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from captionbeam.capmodel.encoders.encoder import Encoder, resolve_encoder, store_weights
from captionbeam.jobs import cli
from captionbeam.pipelines.bulk.plan import write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.bulk.run import start_run
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.storage import files
from tests.builders.data.history import change_columns, kept_columns
from tests.builders.data.stores import commit_all, make_store, rows_of
from tests.builders.model.models import make_bundle

PICTURES = [f"{number}.png" for number in range(6)]


def picture(name: str) -> bytes:
    pixels = np.random.default_rng([*name.encode()]).integers(0, 255, (40, 50, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pack(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, picture(name))


@pytest.fixture(scope="module")
def encoder():
    spec, state = resolve_encoder("efficientnet_lite0", output="pooled", precision="fp32", image_size=64)
    return spec, state


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path):
    return str(tmp_path / "store") if request.param == "file" else f"memory://{uuid.uuid4().hex}/store"


def encoded(url, sources, encoder, failing):
    """A run over ``sources`` in which some images failed, each with a code of its own."""
    spec, state = encoder
    weights = store_weights(state, f"{url}/models")
    run = start_run(url, "features", spec.to_dict(), spec.fingerprint, spec.field)
    refs = [ref for source in parse_sources(sources) for ref in list_images(source)]
    write_plan(run, "loose-0", refs, 4)

    def fetch_or_fail(window):
        found = fetch(window)
        return [
            ImageError(failing[ref.image_id], "fetch", "made to fail") if ref.image_id in failing else item
            for ref, item in zip(window, found, strict=True)
        ]

    commit_all(run, Encoder.load(spec, weights, batch_size=4), fetch_or_fail)
    publish(run)
    return url


def vectors(url):
    return {name: row.tolist() for name, row in rows_of(url).items()}


def columns_hashes(url):
    tables = [parquet.read_table(f"{url}/columns/{row['columns']}") for row in Store.open(url).shards]
    return {row["image_id"]: row["columns_hash"] for table in tables for row in table.to_pylist()}


def codes(url):
    return {row["image_id"]: row["code"] for row in Store.open(url).failures().to_pylist()}


def test_transient_failures_are_done_again_and_with_all_the_others_too(place, tmp_path, encoder, capsys):
    """Out of a zip that was packed anew since: its members lie elsewhere in it."""
    pack(tmp_path / "photos.zip", PICTURES)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "x.png").write_bytes(picture("x.png"))
    sources = [str(tmp_path / "photos.zip"), str(tmp_path / "loose")]
    whole = vectors(encoded(str(tmp_path / "whole"), sources, encoder, {}))
    failing = {"1.png": "timeout", "2.png": "decode", "4.png": "unavailable", "x.png": "timeout"}
    encoded(place, sources, encoder, failing)
    pack(tmp_path / "photos.zip", ["new.png", *reversed(PICTURES)])

    assert cli.main(["store", "retry-failures", place, "--batch-size", "4", "--warn-failures", "1"]) == 0
    assert codes(place) == {"2.png": "decode"}
    assert vectors(place) == {name: vector for name, vector in whole.items() if name != "2.png"}

    assert cli.main(["store", "retry-failures", place]) == 0
    assert "nothing to do: 0 temporary failures in snapshot 2" in capsys.readouterr().out

    assert cli.main(["store", "retry-failures", place, "--all", "--batch-size", "4"]) == 0
    assert (codes(place), vectors(place)) == ({}, whole)
    assert verify(place).problems == []


def test_weights_that_are_gone_are_named(tmp_path, encoder, capsys):
    pack(tmp_path / "photos.zip", PICTURES)
    url = encoded(str(tmp_path / "store"), [str(tmp_path / "photos.zip")], encoder, {"1.png": "timeout"})
    fs, path = files.split(f"{url}/models")
    fs.rm(path, recursive=True)
    assert cli.main(["store", "retry-failures", url]) == 2
    assert ".safetensors is not there; expected the weights or bundle that made" in capsys.readouterr().err


def captions(url):
    return {row["image_id"]: row["captions"] for batch in Store.open(url).scan() for row in batch.to_pylist()}


def test_captions_of_features_are_done_again_from_the_features(tmp_path, capsys):
    """One file of features could not be read at first; with no plan left nobody knows which row each image was."""
    grids = np.random.default_rng(0).standard_normal((6, 2, 3, 5)).astype(np.float16)
    items = {f"{number}.png": grid for number, grid in enumerate(grids)}
    spec = {"name": "none", "weights_sha256": "0" * 64}
    features = make_store(
        str(tmp_path / "features"), "features", arrow.grid_field("grid", (2, 3, 5)), items, spec, shard_size=3
    )
    make_bundle().save(str(tmp_path / "bundle"))
    command = ["caption", "--features", features.url, "--bundle", str(tmp_path / "bundle"), "--output"]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    data = next(Path(features.url, "data").iterdir())
    data.rename(tmp_path / "away")
    url = str(tmp_path / "captions")
    assert cli.main([*command, url]) == 3
    assert set(codes(url).values()) == {"not_found"}
    (tmp_path / "away").rename(data)
    shutil.copytree(url, tmp_path / "planless")
    assert cli.main(["store", "retry-failures", url, "--all"]) == 0
    assert (captions(url), codes(url)) == (captions(str(tmp_path / "whole")), {})

    shutil.rmtree(tmp_path / "planless" / "plans")
    capsys.readouterr()
    assert cli.main(["store", "retry-failures", str(tmp_path / "planless"), "--all"]) == 0
    said = capsys.readouterr().out
    assert "3 failed images" in said
    assert "nothing to do" in said


def test_kept_columns_go_from_features_to_captions_and_stay_with_what_is_retried(tmp_path, capsys):
    """Names as in the input: one of them is that of a column of every store."""
    items = {f"{number}.png": np.ones((2, 3, 5), np.float16) for number in range(6)}
    columns = {name: {"price": number + 0.5, "source": f"shop {number}"} for number, name in enumerate(items)}
    features = make_store(
        str(tmp_path / "features"),
        "features",
        arrow.grid_field("grid", (2, 3, 5)),
        items,
        {"name": "none", "weights_sha256": "0" * 64},
        shard_size=3,
        kept=pa.Table.from_pylist([*columns.values()]),
    )
    make_bundle().save(str(tmp_path / "bundle"))
    url = str(tmp_path / "captions")
    command = ["caption", "--features", features.url, "--bundle", str(tmp_path / "bundle"), "--output", url]
    assert cli.main([*command, "--keep-columns", "cost"]) == 2
    assert "has no column 'cost' to keep; expected some of 'price', 'source'" in capsys.readouterr().err
    data = next(Path(features.url, "data").iterdir())
    data.rename(tmp_path / "away")
    assert cli.main([*command, "--keep-columns", "input_source,price"]) == 3
    assert (len(codes(url)), kept_columns(Store.open(url)), Store.open(url).kept) == (
        3,
        {name: {"price": own["price"], "input_source": own["source"]} for name, own in columns.items()},
        features.kept,
    )
    (tmp_path / "away").rename(data)
    change_columns(url, {name: {"price": 9.0} for name in list(items)[:3]})
    before = kept_columns(Store.open(url))
    assert cli.main(["store", "retry-failures", url, "--all"]) == 0
    assert (codes(url), kept_columns(Store.open(url))) == ({}, before)
    assert verify(url).problems == []


def test_where_no_plan_is_left_the_container_is_listed(tmp_path, encoder):
    pack(tmp_path / "photos.zip", PICTURES)
    source = [str(tmp_path / "photos.zip")]
    url = encoded(str(tmp_path / "store"), source, encoder, {"1.png": "timeout", "5.png": "timeout"})
    fs, path = files.split(f"{url}/plans")
    fs.rm(path, recursive=True)
    assert cli.main(["store", "retry-failures", url, "--batch-size", "4"]) == 0
    assert sorted(vectors(url)) == PICTURES
    assert codes(url) == {}


def test_values_of_a_list_that_a_retry_takes_along_are_still_those_of_the_list(tmp_path):
    """CSV has no types: the columns' hash is that of the cells, by which a refresh sees that nothing changed."""
    (tmp_path / "2.png").write_bytes(picture("2.png"))
    (tmp_path / "list.csv").write_text("url,price\n1.png,5\n2.png,7.5\n")
    url = str(tmp_path / "store")
    encode = ["encode", str(tmp_path / "list.csv"), "--output", url, "--keep-columns", "price", "--pooled"]
    assert (
        cli.main([*encode, "--encoder", "efficientnet_lite0", "--image-size", "64", "--max-failures", "1"])
        == 3
    )
    hashes = columns_hashes(url)
    (tmp_path / "1.png").write_bytes(picture("1.png"))
    assert cli.main(["store", "retry-failures", url, "--all"]) == 0
    assert {name.rsplit("/")[-1]: own for name, own in kept_columns(Store.open(url)).items()} == {
        "1.png": {"price": 5.0},
        "2.png": {"price": 7.5},
    }
    assert columns_hashes(url) == hashes
