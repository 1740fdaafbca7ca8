"""The scorer: CLIPScore and SigLIP's sigmoid, equal to a bare computation by transformers."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from captionbeam.capmodel.captioners.huggingface.scorer import Scorer, resolve_scorer
from captionbeam.schemas.errors import RequestError
from tests.builders.model.scorers import TOKENS, save_scorer
from tests.builders.model.transformers_models import save_model

TEXTS = ["a dog runs", "Two cats, sleeping.", "a text that has more letters than the model reads", "x", ""]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory):
    return save_scorer(tmp_path_factory.mktemp("scorer"), request.param)


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 255, (30 + number, 40, 3), np.uint8) for number in range(len(TEXTS))]
    return [encoded(Image.fromarray(one)) for one in pixels]


def encoded(image):
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def scores(scorer, photos, texts):
    features, cut = scorer.text_features(texts)
    images = scorer.image_features([scorer.prepare(photo) for photo in photos])
    return scorer.scores(images, features), cut


def bare(folder, photos, texts):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model, words = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    is_clip = model.config.model_type == "clip"
    given = [f"A photo depicts {text}" for text in texts] if is_clip else texts
    padding = True if is_clip else "max_length"
    text = words(given, padding=padding, truncation=True, max_length=TOKENS, return_tensors="pt")
    names = ("input_ids", "attention_mask") if is_clip else ("input_ids",)
    pictures = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(**{name: text[name] for name in names}, pixel_values=pixels)
    logits = out.logits_per_image.diagonal()
    if not is_clip:
        return torch.sigmoid(logits)
    return 2.5 * (logits / model.logit_scale.exp()).clamp(min=0).detach()


def test_scores_equal_those_of_transformers_and_long_texts_are_counted(folder, photos):
    found, cut = scores(Scorer.load(resolve_scorer(folder).folder, 2, "cpu"), photos, TEXTS)
    torch.testing.assert_close(found, bare(folder, photos, TEXTS), rtol=1e-5, atol=1e-6)
    assert cut == 1
    assert found.std() > 1e-3


def test_scores_do_not_depend_on_the_rest_of_their_batch(folder, photos):
    scorer = Scorer.load(resolve_scorer(folder).folder, 4, "cpu")
    together, _ = scores(scorer, photos, TEXTS)
    alone = [scores(scorer, [photo], [text])[0] for photo, text in zip(photos, TEXTS, strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_clipscore_is_from_0_to_2_and_a_half(tmp_path):
    scorer = Scorer.load(resolve_scorer(save_scorer(tmp_path)).folder, 4, "cpu")
    image = torch.tensor([[1.0, 0.0]] * 3)
    texts = torch.tensor([[-1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    torch.testing.assert_close(scorer.scores(image, texts), torch.tensor([0.0, 1.5, 2.5]))


def test_other_models_and_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(RequestError, match="is a model of blip, which does not score"):
        resolve_scorer(save_model(tmp_path / "blip"))
    clip = save_scorer(tmp_path / "clip")
    shutil.copytree(clip, tmp_path / "odd")
    weights = load_file(tmp_path / "odd/model.safetensors")
    save_file({name: value for name, value in weights.items() if "visual" not in name},
              tmp_path / "odd/model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(RequestError, match="do not fit its config.json: 1 of the model's tensors"):
        resolve_scorer(str(tmp_path / "odd"))
    shutil.copytree(clip, tmp_path / "untold", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(RequestError, match="the tokenizer of .* knows no word"):
        resolve_scorer(str(tmp_path / "untold"))
