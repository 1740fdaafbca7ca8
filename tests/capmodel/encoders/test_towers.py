"""Vision towers of transformers as encoders: the features of transformers itself, for a tiny random one of each."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec, resolve_encoder, store_weights
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint
from tests.builders.data.images import encoded
from tests.builders.model.encoding import stored
from tests.builders.model.towers import PROJECTION, SIDE, TOWERS, save_tower

SIZES = [(150, 110), (33, 70), (32, 32)]
RANDOM = np.random.default_rng(0)
PICTURES = [Image.fromarray(RANDOM.integers(0, 256, (6, 5, 3), np.uint8)).resize(size) for size in SIZES]
PHOTOS = [encoded(np.asarray(picture), "PNG") for picture in PICTURES]
NAMES = [f"{number}.png" for number in range(len(SIZES))]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return {kind: save_tower(tmp_path_factory.mktemp(kind), kind) for kind in TOWERS}


def loaded(path, tmp_path, **options):
    """The encoder as a worker loads it: from the record and the weights."""
    spec, state = resolve_encoder(f"hf:{path}", **{"precision": "fp32", **options})
    url = store_weights(state, str(tmp_path / "models"))
    return Encoder.load(EncoderSpec.from_dict(spec.to_dict()), url, 2)


def rows(encoder):
    batches = [
        encoder.run([encoder.prepare(photo)], [name]) for photo, name in zip(PHOTOS, NAMES, strict=True)
    ]
    return np.concatenate([batch[encoder.spec.output] for batch in batches])


def direct(path, output, side=SIDE):
    """What transformers gives for the pictures."""
    model = transformers.AutoModel.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    if side != SIDE:
        shape = {"height": side, "width": side}
        processor.size, processor.crop_size = ({"shortest_edge": side}, shape)
    pixels = torch.cat([processor(images=one, return_tensors="pt")["pixel_values"] for one in PICTURES])
    how = {} if side == SIDE else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        if output == "pooled":
            both = hasattr(model, "get_image_features")
            return (model.get_image_features(pixels) if both else model(pixels)).pooler_output.numpy()
        vision = getattr(model, "vision_model", model)
        tokens = vision(pixels, **how).last_hidden_state
    patches = side // 8
    return tokens[:, -(patches**2) :].unflatten(1, (patches, patches)).numpy()


@pytest.mark.parametrize("output", ["grid", "pooled"])
@pytest.mark.parametrize("kind", TOWERS)
def test_features_are_those_of_transformers(towers, tmp_path, kind, output):
    encoder = loaded(towers[kind], tmp_path, output=output)
    found, expected = rows(encoder), direct(towers[kind], output)
    assert found.shape == (len(PHOTOS), *encoder.spec.shape) == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_another_image_size_interpolates_the_positions(towers, tmp_path):
    encoder = loaded(towers["clip"], tmp_path, image_size=48)
    assert encoder.spec.shape == (6, 6, 16)
    np.testing.assert_allclose(rows(encoder), direct(towers["clip"], "grid", 48), rtol=1e-3, atol=1e-3)
    with pytest.raises(
        RequestError, match="image size 50 is no whole number of hf:clip_vision_model's patches"
    ):
        resolve_encoder(f"hf:{towers['clip']}", image_size=50)


def test_a_models_own_image_size_need_not_be_a_multiple_of_its_patches(tmp_path):
    """The convolution leaves out the rest, as in SigLIP's so400m-patch14-384."""
    config = transformers.SiglipVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=30,
        patch_size=7,
    )  # fmt: skip
    model = transformers.SiglipVisionModel(config).eval()
    model.save_pretrained(tmp_path / "model")
    transformers.SiglipImageProcessor(size={"height": 30, "width": 30}).save_pretrained(tmp_path / "model")
    encoder = loaded(tmp_path / "model", tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    pixels = torch.cat([processor(images=one, return_tensors="pt")["pixel_values"] for one in PICTURES])
    with torch.no_grad():
        expected = model(pixels).last_hidden_state.unflatten(1, (4, 4)).numpy()
    assert encoder.spec.shape == (4, 4, 16)
    np.testing.assert_allclose(rows(encoder), expected, rtol=1e-3, atol=1e-3)


def test_a_clip_tower_saved_alone_is_projected_as_it_was_saved(tmp_path):
    config = transformers.CLIPVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=SIDE,
        patch_size=8, projection_dim=PROJECTION,
    )  # fmt: skip
    shape = {"height": SIDE, "width": SIDE}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=shape)
    pixels = torch.cat([processor(images=one, return_tensors="pt")["pixel_values"] for one in PICTURES])
    for kind, said in (
        ("CLIPVisionModelWithProjection", "image_embeds"),
        ("CLIPVisionModel", "pooler_output"),
    ):
        model = getattr(transformers, kind)(config).eval()
        for saved in (model, processor):
            saved.save_pretrained(tmp_path / kind)
        with torch.no_grad():
            expected = model(pixels)[said].numpy()
        found = rows(loaded(tmp_path / kind, tmp_path, output="pooled"))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_record_has_what_a_worker_needs(towers):
    spec, _ = resolve_encoder(f"hf:{towers['clip']}", output="pooled", precision="fp32")
    assert (spec.name, spec.shape) == ("hf:clip_vision_model", (PROJECTION,))
    assert spec.preprocess.crop == "resize-floor-crop"
    assert towers["clip"] not in str(spec.to_dict())
    grid, _ = resolve_encoder(f"hf:{towers['clip']}", precision="fp32")
    assert fingerprint(grid.to_dict()) != fingerprint(spec.to_dict())
    other, _ = resolve_encoder(f"hf:{towers['siglip']}", precision="fp32")
    assert other.config != spec.config


def test_other_encoders_records_have_no_configuration(tmp_path):
    assert "config" not in stored(tmp_path)[0].to_dict()


def test_unsuitable_folders_are_refused_in_one_sentence(towers, tmp_path):
    text = tmp_path / "text"
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(text)
    bare, wrong = (shutil.copytree(towers["clip"], tmp_path / name) for name in ("bare", "wrong"))
    (bare / "preprocessor_config.json").unlink()
    shutil.copy(f"{towers['siglip']}/model.safetensors", wrong)
    for folder, said in [
        (text, r"is a model of bert; expected a folder of CLIP, SigLIP or DINOv2 that save_pretrained wrote"),
        (bare, "has no image processor"),
        (wrong, "the weights of .* do not fit its config.json"),
        (tmp_path / "none", "has no config.json; expected a folder that save_pretrained wrote"),
    ]:
        with pytest.raises(RequestError, match=said):
            resolve_encoder(f"hf:{folder}")
    with pytest.raises(RequestError, match="gives its last grid alone"):
        resolve_encoder(f"hf:{towers['clip']}", layers=("encoder.layers.0",))
    with pytest.raises(RequestError, match="has the weights of its folder; expected no --weights"):
        resolve_encoder(f"hf:{towers['clip']}", f"{towers['clip']}/model.safetensors")
    headless = transformers.SiglipVisionConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vision_use_head=False
    )
    transformers.SiglipVisionModel(headless).save_pretrained(tmp_path / "headless")
    shutil.copy(f"{towers['siglip']}/preprocessor_config.json", tmp_path / "headless")
    with pytest.raises(RequestError, match="hf:siglip_vision_model has no pooled; expected grid"):
        resolve_encoder(f"hf:{tmp_path / 'headless'}", output="pooled")
    with pytest.raises(RequestError, match="has no logits; expected grid or pooled"):
        resolve_encoder(f"hf:{towers['clip']}", output="logits")
