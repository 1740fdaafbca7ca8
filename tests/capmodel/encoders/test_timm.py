"""timm's models as encoders: their own features, sizes and transforms, and their weights from a cache or a file."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from captionbeam.capmodel.encoders.backbones import get_backbone, load_network
from captionbeam.capmodel.encoders.encoder import Encoder, resolve_encoder, store_weights
from captionbeam.schemas.errors import RequestError
from tests.builders.data.images import drawn, encoded

CPU = torch.device("cpu")
PHOTOS = [encoded(drawn(width, height), "JPEG") for width, height in ((90, 70), (64, 80))]
SMALL = ("test_resnet", "test_vit", "test_mambaout")  # [n, C, H, W]; tokens; [n, H, W, C]


def random_model(name: str, **options):
    torch.manual_seed(5)
    model = timm.create_model(name, pretrained=False, **options).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1 and value.is_floating_point():
            value.uniform_(0.3, 0.9)
    return model


def answer(name: str, output: str, state: dict[str, Tensor], images: Tensor) -> Tensor:
    size = images.shape[-1]
    fitted = get_backbone(name).fit(state, size, output)
    network = load_network(name, size, output, fitted, True, torch.float32, CPU)
    with torch.inference_mode():
        return network(images)


def close(seen: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_a_model_gives_its_own_features(name):
    """The grid without the class token, channels first; pooled as its head pools; logits as its head says."""
    model = random_model(name)
    images = torch.randn(2, 3, *model.pretrained_cfg["input_size"][1:])
    with torch.inference_mode():
        features = model.forward_features(images)
        pooled, logits = model.forward_head(features, pre_logits=True), model(images)
    if name == "test_vit":
        features = features[:, 1:].unflatten(1, (10, 10))
    expected = features if name == "test_resnet" else features.permute(0, 3, 1, 2)
    state = model.state_dict()
    close(answer(f"timm:{name}", "grid", state, images), expected)
    close(answer(f"timm:{name}", "pooled", state, images), pooled)
    close(answer(f"timm:{name}", "logits", state, images), logits)
    backbone, size = get_backbone(f"timm:{name}"), images.shape[-1]
    channels, *cells = expected.shape[1:]
    assert backbone.shape(size, "grid") == (*cells, channels)
    assert backbone.shape(size, "pooled") == pooled.shape[1:]
    assert backbone.shape(size, "logits") == (1000,)


@pytest.mark.parametrize("name", ["test_resnet", "vit_base_patch16_clip_224"])
def test_the_preset_is_timms_own_transform(name):
    """Size, crop_pct, crop_mode, mean, std and interpolation of the data config, within a level."""
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    backbone = get_backbone(f"timm:{name}")
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = create_transform(**config, is_training=False)(Image.fromarray(picture))
    seen = backbone.presets[backbone.default](picture)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1.1 / 255 / min(config["std"]))


def test_a_file_of_weights_is_an_encoder(tmp_path):
    """With the classifier in the file or without: one fingerprint."""
    model = random_model("test_vit")
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    trunk = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    one, other = (
        resolve_encoder("timm:test_vit", str(tmp_path / name), precision="fp32")
        for name in ("whole.safetensors", "trunk.safetensors")
    )
    assert one[0] == other[0]
    encoder = Encoder.load(one[0], store_weights(one[1], str(tmp_path / "models")), batch_size=2)
    batch = [encoder.prepare(photo) for photo in PHOTOS]
    with torch.inference_mode():
        tokens = model.forward_features(one[0].preprocess.scale(torch.stack(batch)))
    expected = tokens[:, 1:].unflatten(1, (10, 10))
    rows = encoder.run(batch, ["a", "b"])["grid"]
    assert (rows.dtype, rows.shape) == (np.float16, (2, *one[0].shape))
    np.testing.assert_allclose(rows.astype(np.float32), expected, rtol=2e-3, atol=2e-3)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub that cannot be reached, and an empty cache of what came from it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_timms_own_weights_come_from_its_hub(offline):
    model = random_model("test_resnet")
    repository = offline / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    spec, state = resolve_encoder("timm:test_resnet.r160_in1k", precision="fp32")
    assert spec.shape == (5, 5, 96)
    torch.testing.assert_close(state["conv1.0.weight"], model.state_dict()["conv1.0.weight"])
    assert not [key for key in state if key.startswith("fc.")]


def test_a_hub_that_cannot_be_reached_is_said(offline):
    with pytest.raises(
        RequestError, match=r"^timm's weights of test_resnet cannot be fetched \(.*--weights FILE"
    ):
        resolve_encoder("timm:test_resnet")


def test_without_timm_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError) as caught:
        get_backbone("timm:resnet18")
    assert str(caught.value) == (
        "timm is not installed; expected pip install '.[timm]' in a clone of captionbeam, on workers too"
    )


def test_positions_are_resampled_for_another_size_as_timm_does_it():
    model = random_model("test_vit")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(2, 3, 96, 96)
    model.set_input_size(img_size=(96, 96))
    with torch.inference_mode():
        expected = model.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (6, 6))
    close(answer("timm:test_vit", "grid", state, images), expected)
    assert get_backbone("timm:test_vit").shape(96, "grid") == (6, 6, 64)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("timm:mixer_s32_224", 96,
         "timm:mixer_s32_224 takes no images of size 96 (Input height (96) doesn't match model (224).); "
         "expected another --image-size"),
        ("timm:coat_tiny", 224,
         "timm:coat_tiny gives no square grid of features; expected another model, or --pooled"),
    ],
)  # fmt: skip
def test_what_gives_no_grid_is_refused(name, size, sentence):
    with pytest.raises(RequestError) as caught:
        get_backbone(name).shape(size, "grid")
    assert str(caught.value) == sentence


def test_a_transform_that_has_no_counterpart_is_refused():
    with pytest.raises(
        RequestError, match="cropped as 'border', resized as 'bicubic'; expected a square, center or"
    ):
        _ = get_backbone("timm:deepseek_vit_412m").presets
