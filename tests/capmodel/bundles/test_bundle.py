import uuid

import pytest

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.bundles.contents import read_manifest, store_bundle
from captionbeam.schemas.errors import BundleError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.storage import files
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer

PARTS = {"config.json", "model.safetensors", "tokenizer", "history.json", "README.md"}


@pytest.fixture
def folder():
    return f"memory://{uuid.uuid4().hex}/bundle"


def with_encoder(folder):
    """A bundle with (what stands for) an encoder's weights."""
    weights = files.join(folder + "-store", "weights.safetensors")
    files.write_atomic(weights, b"weights")
    return make_bundle(({"name": "fake", "weights_sha256": sha256_bytes(b"weights")}, weights))


def changed_config(folder, **changes):
    """Write other values into config.json."""
    config = files.join(folder, "config.json")
    files.write_atomic(config, files.json_bytes(files.read_json(config) | changes))


def test_a_bundle_is_read_back_as_it_was_saved(folder):
    bundle = make_bundle()
    assert bundle.save(folder) == folder
    assert set(files.names(folder)) == PARTS
    loaded = Bundle.load(folder)
    assert loaded.config == bundle.config
    assert loaded.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    assert (loaded.features_fingerprint, loaded.encoder_spec) == (
        bundle.features_fingerprint,
        bundle.encoder_spec,
    )
    assert (loaded.scores, loaded.history) == (bundle.scores, bundle.history)
    assert loaded.sha256 == bundle.sha256
    assert loaded.encoder_weights is None
    assert not loaded.decoder.training


def test_the_encoders_weights_are_in_the_folder(folder):
    bundle = with_encoder(folder)
    bundle.save(folder)
    assert set(files.names(folder)) == PARTS | {"encoder.safetensors"}
    loaded = Bundle.load(folder)
    assert loaded.encoder_weights == files.join(folder, "encoder.safetensors")
    assert files.read_bytes(loaded.encoder_weights) == b"weights"
    assert loaded.sha256 == bundle.sha256


def test_the_hash_is_of_what_decides_a_caption():
    bundle = make_bundle()
    assert make_bundle(scores={}, history=[]).sha256 == bundle.sha256
    others = [
        make_bundle(decoder=make_decoder(make_tokenizer(), seed=1)),
        make_bundle(tokenizer=make_tokenizer(max_length=9)),
        make_bundle(features_fingerprint="another"),
        make_bundle(encoder_spec=None),
    ]
    assert len({bundle.sha256, *(other.sha256 for other in others)}) == 5


def test_saving_over_a_bundle_replaces_it(folder):
    with_encoder(folder).save(folder)
    other = make_bundle(decoder=make_decoder(make_tokenizer(), seed=1))
    other.save(folder)
    assert Bundle.load(folder).sha256 == other.sha256
    assert Bundle.load(folder).encoder_weights is None


@pytest.mark.parametrize("written", [0, 3, 5])
def test_a_half_written_bundle_is_no_bundle(folder, written, monkeypatch):
    make_bundle(decoder=make_decoder(make_tokenizer(), seed=1)).save(folder)
    done = []
    write = files.write_atomic

    def fail_late(url, data):
        if len(done) == written:
            raise OSError("no space left on device")
        done.append(url)
        write(url, data)

    monkeypatch.setattr(files, "write_atomic", fail_late)
    with pytest.raises(OSError, match="no space left"):
        make_bundle().save(folder)
    monkeypatch.undo()
    with pytest.raises(BundleError, match=r"is not a bundle: it has no config\.json; expected a folder"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/vocab.json"])
def test_a_file_that_was_changed_is_found_out(folder, name):
    make_bundle().save(folder)
    files.write_atomic(files.join(folder, name), b"something else")
    with pytest.raises(
        BundleError, match=rf"{name} of the bundle '{folder}' has SHA-256 \w+; expected \w+, as"
    ):
        Bundle.load(folder)


def test_the_card_may_be_completed_by_hand(folder):
    make_bundle().save(folder)
    files.write_atomic(files.join(folder, "README.md"), b"mine")
    assert Bundle.load(folder).sha256 == make_bundle().sha256


def test_a_newer_version_is_refused(folder):
    make_bundle().save(folder)
    changed_config(folder, version=2)
    with pytest.raises(BundleError, match=r"has version 2; this captionbeam reads up to 1: upgrade it"):
        Bundle.load(folder)


def test_a_config_that_was_changed_is_found_out(folder):
    make_bundle().save(folder)
    changed_config(folder, features="another")
    with pytest.raises(BundleError, match="was changed after it was saved"):
        Bundle.load(folder)


def test_the_folder_holds_no_pickle(folder):
    make_bundle().save(folder)
    fs, path = files.split(folder)
    assert not any(fs.cat_file(name)[:2] in (b"\x80\x02", b"PK") for name in fs.find(path))


def test_a_bundle_is_kept_once_by_its_hash(folder):
    bundle = with_encoder(folder)
    bundle.save(folder)
    models = folder + "-models"
    kept = store_bundle(folder, models)
    assert kept == files.join(models, bundle.sha256)
    loaded = Bundle.load(kept)
    assert loaded.sha256 == bundle.sha256
    assert files.read_bytes(loaded.encoder_weights) == b"weights"
    files.write_atomic(files.join(folder, "model.safetensors"), b"not looked at again")
    assert store_bundle(folder, models) == kept


def test_a_bundle_that_is_cut_is_refused_and_kept_once_it_is_whole(folder):
    with_encoder(folder).save(folder)
    name = "encoder.safetensors"
    models, whole = folder + "-models", files.read_bytes(files.join(folder, name))
    files.write_atomic(files.join(folder, name), whole[:-1])
    with pytest.raises(BundleError, match=rf"{name} of the bundle .* has SHA-256 .*; expected .*, as saved"):
        store_bundle(folder, models)
    kept = files.join(models, read_manifest(folder).sha256)
    assert not files.exists(files.join(kept, name))
    files.write_atomic(files.join(folder, name), whole)
    assert store_bundle(folder, models) == kept
    assert Bundle.load(kept).sha256 == read_manifest(folder).sha256


def test_a_kept_bundle_that_is_damaged_is_replaced(folder):
    with_encoder(folder).save(folder)
    kept = store_bundle(folder, folder + "-models")
    files.write_atomic(f"{kept}/encoder.safetensors", b"cut")
    assert store_bundle(folder, folder + "-models") == kept
    assert files.read_bytes(f"{kept}/encoder.safetensors") == files.read_bytes(
        f"{folder}/encoder.safetensors"
    )


def test_the_card_says_scores_use_and_origin(folder):
    bundle = with_encoder(folder)
    bundle.save(folder)
    card = files.read_bytes(files.join(folder, "README.md")).decode()
    for part in (
        "| CIDEr | 0.5 |",
        f"captionbeam caption photos/ --bundle {folder}",
        f"fingerprint `{bundle.features_fingerprint}`",
        f"SHA-256 `{bundle.sha256}`",
        '"name": "fake"',
        "words, 12 tokens, at most 8 a caption",
        "nothing else is needed",
        "Licence",
    ):
        assert part in card
    assert card.startswith("---\nlibrary_name: captionbeam\n")


def test_a_file_that_is_gone_is_found_out(folder):
    make_bundle().save(folder)
    fs, path = files.split(files.join(folder, "model.safetensors"))
    fs.rm_file(path)
    with pytest.raises(BundleError, match=r"lacks model\.safetensors; expected the files that were saved"):
        Bundle.load(folder)
