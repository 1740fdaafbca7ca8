"""Bundles as models of transformers: both ways on one folder, the same captions to the bit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.captioners.captioner import Captioner
from captionbeam.capmodel.captioners.huggingface.folders import open_folder
from captionbeam.capmodel.captioners.huggingface.modeling import BundleForCaptioning
from captionbeam.capmodel.encoders.encoder import resolve_encoder, store_weights
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.schemas.errors import BundleError, RequestError
from tests.builders.model.models import make_bundle, make_decoder, make_features, make_tokenizer

BEST = DecodeOptions(beam=3, n_best=2)


@pytest.fixture
def folder(tmp_path):
    return make_bundle().save(str(tmp_path / "bundle"))


def written(bundle):
    return generate(bundle.decoder, make_features(4), BEST, list("abcd"), bundle.tokenizer)


def test_a_bundle_opens_with_the_auto_classes(folder):
    assert AutoConfig.from_pretrained(folder).manifest["sha256"] == Bundle.load(folder).sha256
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert isinstance(model, BundleForCaptioning)
    assert not model.training
    assert model.generate(features=make_features(4), options=BEST) == written(Bundle.load(folder))


def test_what_save_pretrained_writes_is_the_same_bundle(folder, tmp_path):
    copy = tmp_path / "copy"
    BundleForCaptioning.from_pretrained(folder).save_pretrained(copy)
    for path in Path(folder).rglob("*"):
        if path.is_file() and path.name != "README.md":  # the card says where it lies
            assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert Bundle.load(str(copy)).sha256 == Bundle.load(folder).sha256
    assert written(Bundle.load(str(copy))) == written(Bundle.load(folder))


def test_weights_that_were_trained_on_are_saved(folder, tmp_path):
    model = BundleForCaptioning.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(tmp_path / "trained")
    loaded = Bundle.load(str(tmp_path / "trained"))
    assert loaded.sha256 != Bundle.load(folder).sha256
    for name, value in model.decoder.state_dict().items():
        assert torch.equal(loaded.decoder.state_dict()[name], value)


def test_images_get_the_captions_of_a_job(tmp_path):
    spec, state = resolve_encoder("efficientnet_lite0", precision="fp32", image_size=64)
    weights, tokenizer = store_weights(state, str(tmp_path / "models")), make_tokenizer()
    bundle = make_bundle(
        (spec.to_dict(), weights), decoder=make_decoder(tokenizer, spec.shape), tokenizer=tokenizer
    )
    folder = bundle.save(str(tmp_path / "bundle"))
    BundleForCaptioning.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 80, 3), np.uint8)).save(image, "PNG")
    job = Captioner.load(str(tmp_path / "copy"), BEST, batch_size=1, device="cpu")
    (expected,) = job.run([job.prepare(image.getvalue())], ["0"])["captions"].to_pylist()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    (found,) = model.generate(images=[image.getvalue()], options=BEST)
    assert [(one.text, one.logprob) for one in found] == [(one["text"], one["logprob"]) for one in expected]


def test_what_a_bundle_cannot_do_is_refused(folder):
    model = BundleForCaptioning.from_pretrained(folder)
    with pytest.raises(RequestError, match="needs one of images and features"):
        model.generate()
    with pytest.raises(BundleError, match="holds no encoder"):
        model.generate(images=[b""])
    with pytest.raises(RequestError, match="has no options revision; expected a folder alone"):
        BundleForCaptioning.from_pretrained(folder, revision="main")
    with pytest.raises(RequestError, match="is a bundle of captionbeam; expected --bundle"):
        open_folder(folder)


def test_teacher_forcing_is_the_decoders(folder):
    model, tokens = BundleForCaptioning.from_pretrained(folder), torch.tensor([[[2, 4, 5]]])
    assert torch.equal(model(make_features(1), tokens), model.decoder(make_features(1), tokens))


def test_a_bundle_from_before_model_types_opens_too(folder):
    path = Path(folder, "config.json")
    config = json.loads(path.read_text())
    assert config.pop("model_type") == "captionbeam"
    assert config.pop("architectures") == ["BundleForCaptioning"]
    path.write_text(json.dumps(config))
    model = BundleForCaptioning.from_pretrained(folder)
    assert model.generate(features=make_features(4), options=BEST) == written(Bundle.load(folder))
