"""Features made smaller, as a user meets it: components, int8, of images and of a store, and captions of either."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.captioners.captioner import Captioner
from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.generation.captions import DecodeOptions
from captionbeam.jobs.cli import main
from captionbeam.pipelines.maintenance.vacuum import vacuum
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from captionbeam.schemas.errors import BundleError, FingerprintError
from captionbeam.schemas.formats.components import read_components
from captionbeam.schemas.formats.int8 import rounded
from captionbeam.schemas.storage import files
from tests.builders.data.history import change_columns, kept_columns
from tests.builders.data.images import drawn, encoded
from tests.builders.data.stores import commits, make_captions, make_features, rows_of
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer

ENCODER = [
    "--encoder",
    "efficientnet_lite0",
    "--image-size",
    "64",
    "--precision",
    "fp32",
    "--batch-size",
    "8",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photographs, a store of their features, components of these, and the folder that all lies in."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").mkdir()
    for number, size in enumerate([(90, 70), (64, 64), (70, 120), (65, 64), (100, 64)]):
        (folder / "photos" / f"{number}.jpg").write_bytes(encoded(drawn(*size), "JPEG"))
    photos, full, components = (str(folder / name) for name in ("photos", "full", "components.safetensors"))
    assert main(["encode", photos, "--output", full, *ENCODER]) == 0
    assert main(["svd", "--features", full, "--output", components, "--components", "12"]) == 0
    return SimpleNamespace(photos=photos, full=full, components=components)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert {name: grid.tolist() for name, grid in found.items()} == {
        name: grid.tolist() for name, grid in expected.items()
    }


def reduced(world, output: str, *options: str) -> Store:
    assert main(["encode", "--features", world.full, "--output", output, *options]) == 0
    return Store.open(output)


def test_a_store_is_reduced_to_its_components(world, tmp_path):
    store = reduced(world, str(tmp_path / "small"), "--reduce", world.components)
    components = read_components(world.components)
    assert store.shape == (2, 2, 12)
    assert store.spec["reduction"] == {"method": "svd", "dim": 12, "sha256": components.sha256}
    assert {k: v for k, v in store.spec.items() if k != "reduction"} == Store.open(world.full).spec
    for name, grid in rows_of(world.full).items():
        expected = grid.astype(np.float64) @ components.vectors.T.astype(np.float64)
        np.testing.assert_allclose(rows_of(store.url)[name], expected, rtol=1e-3, atol=1e-3)
    assert verify(store.url).problems == []


def test_rows_keep_the_columns_that_the_full_store_has_of_them(tmp_path, capsys):
    names = [f"{number}.png" for number in range(5)]
    columns = {name: {"price": number, "tags": [name]} for number, name in enumerate(names)}
    spec, kept = {"name": "none", "weights_sha256": "0" * 64}, pa.Table.from_pylist([*columns.values(), {}])
    full = make_features(str(tmp_path / "full"), names, (2, 2, 8), failing=["5.png"], kept=kept, spec=spec)
    shrink = ["encode", "--features", full.url, "--dtype", "int8", "--output"]
    assert main([*shrink, str(tmp_path / "small")]) == 0
    assert kept_columns(Store.open(str(tmp_path / "small"))) == columns
    assert main([*shrink, str(tmp_path / "named"), "--keep-columns", "price"]) == 0
    store = Store.open(str(tmp_path / "named"))
    assert kept_columns(store) == {name: {"price": own["price"]} for name, own in columns.items()}
    before = commits(tmp_path / "small")
    change_columns(full.url, {"0.png": {"price": 100, "tags": ["sale"]}})
    assert main(["refresh", str(tmp_path / "small")]) == 0
    store = Store.open(str(tmp_path / "small"))
    assert kept_columns(store) == {**columns, "0.png": {"price": 100, "tags": ["sale"]}}
    assert (store.snapshot_id, commits(store.url)) == (2, before)
    capsys.readouterr()
    assert main(["store", "show", full.url]) == 0
    assert re.search(r"kept columns\W+price int64, tags list<", capsys.readouterr().out)


def test_images_give_the_rows_that_their_features_give(world, tmp_path):
    options = ["--reduce", world.components, "--dtype", "int8"]
    store, images = reduced(world, str(tmp_path / "rows"), *options), str(tmp_path / "images")
    assert main(["encode", world.photos, "--output", images, *ENCODER, *options]) == 0
    assert Store.open(images).fingerprint == store.fingerprint
    assert_same(rows_of(images), rows_of(store.url))
    vacuum(images, keep=1, grace_hours=0)  # leaves weights and components
    assert verify(images).problems == []


@pytest.fixture
def plain(tmp_path) -> Store:
    """Grids [2, 2, 6] that no network made."""
    return make_features(str(tmp_path / "plain"), [f"{number}.jpg" for number in range(8)], (2, 2, 6))


def fitted(store: Store, *options: str) -> str:
    """A file of four components of a store."""
    output = f"{store.url}.safetensors"
    assert main(["svd", "--features", store.url, "--output", output, "--components", "4", *options]) == 0
    return output


def test_centred_components_take_the_mean_off(plain, tmp_path):
    file, small = fitted(plain, "--center"), str(tmp_path / "small")
    assert main(["encode", "--features", plain.url, "--output", small, "--reduce", file]) == 0
    found = read_components(file)
    assert Store.open(small).spec["reduction"]["method"] == "pca"
    for name, grid in rows_of(plain.url).items():
        expected = (grid.astype(np.float64) - found.mean) @ found.vectors.T.astype(np.float64)
        np.testing.assert_allclose(rows_of(small)[name], expected, rtol=1e-3, atol=1e-3)


def test_the_first_components_alone(plain, tmp_path):
    file, small = fitted(plain), str(tmp_path / "small")
    assert (
        main(["encode", "--features", plain.url, "--output", small, "--reduce", file, "--reduce-dim", "2"])
        == 0
    )
    assert (Store.open(small).shape, Store.open(small).spec["reduction"]["dim"]) == ((2, 2, 2), 2)
    for name, grid in rows_of(plain.url).items():
        expected = grid.astype(np.float32) @ read_components(file).vectors[:2].T
        np.testing.assert_allclose(rows_of(small)[name], expected, rtol=1e-3, atol=1e-3)


def test_a_refresh_follows_the_features(plain, tmp_path):
    small, fewer = (
        str(tmp_path / "small"),
        make_features(str(tmp_path / "fewer"), ["1.jpg", "2.jpg", "new.jpg"], (2, 2, 6)),
    )
    options = ["--output", small, "--reduce", fitted(plain), "--dtype", "int8"]
    assert main(["encode", "--features", plain.url, *options]) == 0
    assert main(["refresh", "--features", fewer.url, *options, "--max-deletes", "0.9"]) == 0
    assert sorted(Store.open(small).ids()) == ["1.jpg", "2.jpg", "new.jpg"]
    assert verify(small).problems == []


def test_failed_rows_are_reduced_again_from_the_features(tmp_path):
    """A file of features could not be read at first. No network made them: nothing but the rows can be read again."""
    names = [f"{number}.jpg" for number in range(8)]
    full = make_features(str(tmp_path / "full"), names, (2, 2, 6), shard_size=4)
    words = ["encode", "--features", full.url, "--dtype", "int8", "--reduce", fitted(full), "--output"]
    whole, url = str(tmp_path / "whole"), str(tmp_path / "small")
    assert main([*words, whole]) == 0
    data = next(Path(full.url, "data").iterdir())
    data.rename(tmp_path / "away")
    assert main([*words, url]) == 3
    assert {row["code"] for row in Store.open(url).failures().to_pylist()} == {"not_found"}
    (tmp_path / "away").rename(data)
    assert main(["store", "retry-failures", url, "--all"]) == 0
    assert Store.open(url).failures().num_rows == 0
    assert_same(rows_of(url), rows_of(whole))
    assert verify(url).problems == []


@pytest.fixture(scope="module")
def small(world, tmp_path_factory):
    """A store of reduced int8 features, and a bundle that was trained on it."""
    folder = tmp_path_factory.mktemp("small")
    store = reduced(world, str(folder / "features"), "--reduce", world.components, "--dtype", "int8")
    data = Data(store, None, None, {})  # type: ignore[arg-type]
    bundle = make_bundle(
        (dict(store.spec), data.encoder_weights()),
        components=data.components(),
        features_fingerprint=store.fingerprint,
        decoder=make_decoder(make_tokenizer(), store.shape),
    )
    return SimpleNamespace(store=store, bundle=bundle, url=bundle.save(str(folder / "bundle")))


def captions(captioner: Captioner, items: list, names: list[str]) -> list:
    return captioner.run([captioner.prepare(item) for item in items], names)["captions"].to_pylist()


def test_captions_of_reduced_features_by_the_job(world, small, tmp_path):
    by_rows, by_images = str(tmp_path / "rows"), str(tmp_path / "images")
    common = ["--bundle", small.url, "--batch-size", "8"]
    assert main(["caption", "--features", small.store.url, "--output", by_rows, *common]) == 0
    assert main(["caption", world.photos, "--output", by_images, *common]) == 0
    texts = [
        {row["image_id"]: row["captions"] for batch in Store.open(url).scan() for row in batch.to_pylist()}
        for url in (by_rows, by_images)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 5
    (bundle,) = Path(by_images, "models").iterdir()
    assert (bundle / "components.safetensors").read_bytes() == Path(world.components).read_bytes()


def test_a_bundle_keeps_its_components_and_knows_when_they_are_not_there(world, small, tmp_path):
    loaded = Bundle.load(small.url)
    assert loaded.components == files.join(small.url, "components.safetensors")
    assert loaded.sha256 == small.bundle.sha256
    with pytest.raises(FingerprintError, match="components .* have SHA-256"):
        make_bundle((dict(small.store.spec), loaded.encoder_weights), components=loaded.encoder_weights)
    without = make_bundle((dict(small.store.spec), loaded.encoder_weights))
    with pytest.raises(BundleError, match="lacks the components of its features; expected --features"):
        Captioner.load(without.save(str(tmp_path / "bundle")), DecodeOptions())


def test_int8_is_the_same_features_rounded(world, tmp_path):
    store = reduced(world, str(tmp_path / "coarse"), "--dtype", "int8")
    assert store.spec == {**Store.open(world.full).spec, "dtype": "int8"}
    assert_same(
        rows_of(store.url), {name: rounded(grid[None])[0] for name, grid in rows_of(world.full).items()}
    )


def test_pooled_features_are_reduced_too_and_hdf5_holds_them(tmp_path):
    pooled, small = (
        make_features(str(tmp_path / "pooled"), ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], (6,)),
        tmp_path / "s",
    )
    file = fitted(pooled)
    options = ["--reduce", file, "--dtype", "int8", "--format", "hdf5"]
    assert main(["encode", "--features", pooled.url, "--output", str(small), *options]) == 0
    for name, vector in rows_of(pooled.url).items():
        expected = vector.astype(np.float32) @ read_components(file).vectors.T
        np.testing.assert_allclose(rows_of(str(small))[name], expected, atol=np.abs(expected).max() / 250)


def test_a_failed_image_is_encoded_and_reduced_again(world, tmp_path):
    """By the weights and the components in the store's models/."""
    options = ["--reduce", world.components, "--dtype", "int8"]
    whole, url = reduced(world, str(tmp_path / "whole"), *options), str(tmp_path / "images")
    photos = Path(shutil.copytree(world.photos, tmp_path / "photos"))
    (photos / "1.jpg").write_bytes(bytes((photos / "1.jpg").stat().st_size))
    assert main(["encode", str(photos), "--output", url, *ENCODER, *options, "--warn-failures", "1"]) == 0
    shutil.copy(Path(world.photos, "1.jpg"), photos / "1.jpg")
    assert main(["store", "retry-failures", url, "--all", "--batch-size", "8"]) == 0
    assert_same(rows_of(url), rows_of(whole.url))


def test_only_an_encoders_own_features_are_reduced(tmp_path, capsys):
    captions = make_captions(str(tmp_path / "captions"), {"a.jpg": "a dog"})
    small = make_features(str(tmp_path / "small"), ["a.jpg"], spec={"reduction": {"dim": 3}})
    coarse = make_features(str(tmp_path / "coarse"), ["a.jpg"], spec={"dtype": "int8"}, dtype="int8")
    for store, said in (
        (captions, "is a store of captions"),
        (small, "reduced already"),
        (coarse, "int8 already"),
    ):
        request = ["encode", "--features", store.url, "--output", str(tmp_path / "s"), "--dtype", "int8"]
        assert main(request) == 2
        assert said in capsys.readouterr().err


def test_components_of_another_encoder_are_refused_and_both_are_named(world, tmp_path, capsys):
    request = ["encode", world.photos, "--output", str(tmp_path / "small"), "--reduce", world.components]
    other = ["--encoder", "efficientnet_lite0", "--image-size", "96", "--precision", "fp32"]
    assert main([*request, *other]) == 2
    said = capsys.readouterr().err
    assert (
        "features of preprocess.resize 73, not 110; preprocess.size 64, not 96; expected components" in said
    )
    assert not (tmp_path / "small").exists()
