"""--decode and --colour: new stores are scaled and sRGB, a store goes on as it was made."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captionbeam.schemas import Store
from tests.builders.data.images import encoded
from tests.builders.data.profiles import DISPLAY_P3
from tests.builders.data.stores import rows_of
from tests.builders.model.towers import save_tower
from tests.builders.running.commands import captionbeam

ENCODER = ("--encoder", "efficientnet_lite0", "--image-size", 64, "--pooled")
AS_BEFORE = ("--decode", "exact", "--colour", "stored")


@pytest.fixture
def photos(tmp_path):
    """One large photograph of wide gamut."""
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    large = Image.fromarray(noise).resize((1200, 800), Image.Resampling.BICUBIC)
    (tmp_path / "photos/1.jpg").write_bytes(encoded(large, "JPEG", icc_profile=DISPLAY_P3.profile()))
    return tmp_path / "photos"


def made(photos, name: str, *options: object) -> Store:
    store = str(photos.parent / name)
    captionbeam("encode", photos, "--output", store, *ENCODER, *options)
    return Store.open(store)


def row(store: Store) -> np.ndarray:
    (only,) = rows_of(store).values()
    return only


def test_a_new_store_is_scaled_and_in_srgb(photos):
    new, exact, before = (
        made(photos, "a"),
        made(photos, "b", "--decode", "exact"),
        made(photos, "c", *AS_BEFORE),
    )
    kept = [store.spec["preprocess"] for store in (new, exact, before)]
    assert [(each.get("decode"), each.get("colour")) for each in kept] == [
        ("scaled", "srgb"), (None, "srgb"), (None, None)
    ]  # fmt: skip
    assert not np.array_equal(row(new), row(exact))
    assert not np.array_equal(row(exact), row(before))


def test_a_store_goes_on_as_it_was_made_whatever_the_defaults_are(photos):
    store = made(photos, "s", *AS_BEFORE)
    (photos / "2.jpg").write_bytes((photos / "1.jpg").read_bytes())
    captionbeam("encode", photos, "--output", store.url, *ENCODER)
    after = Store.open(store.url)
    assert after.fingerprint == store.fingerprint
    first, second = rows_of(after).values()
    np.testing.assert_array_equal(first, second)
    refused = captionbeam("refresh", store.url, "--decode", "scaled", status=2)
    assert "preprocess.decode exact -> scaled; expected --redo" in refused.stderr
    captionbeam("refresh", store.url, "--decode", "scaled", "--redo")
    assert Store.open(store.url).spec["preprocess"]["decode"] == "scaled"
    assert "nothing to do" in captionbeam("refresh", store.url).stdout


def test_towers_of_transformers_read_pictures_as_transformers_does(photos, tmp_path):
    save_tower(tmp_path / "clip", "clip")
    captionbeam(
        "encode", photos, "--encoder", f"hf:{tmp_path / 'clip'}", "--pooled", "--output", tmp_path / "s"
    )
    assert not {"decode", "colour"} & Store.open(str(tmp_path / "s")).spec["preprocess"].keys()
