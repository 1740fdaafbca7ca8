"""Models of transformers as captioners: the captions that ``generate`` itself gives, for tiny random ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner, resolve_captioner
from captionbeam.capmodel.captioners.huggingface.generate import until_eos
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.schemas.errors import ImageError, RequestError
from tests.builders.model.transformers_models import save_model

KINDS = ("blip", "git", "vision-encoder-decoder")
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {kind: save_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def picture(seed, height=20):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, 30, 3), np.uint8)
    return Image.fromarray(pixels)


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


PICTURES = [picture(seed, 20 + 7 * seed) for seed in range(3)]


def captioner(path, batch_size=4, precision=None, **options):
    decode = DecodeOptions(**options)
    plan = resolve_captioner(path, decode, precision)
    return HuggingFaceCaptioner.load(plan.folder, decode, plan.spec, batch_size, "cpu")


def captions(loaded, pictures=PICTURES, names=NAMES):
    items = [loaded.prepare(png(image)) for image in pictures]
    return loaded.run(items, names)["captions"].to_pylist()


def texts(found):
    return [[caption["text"] for caption in image] for image in found]


def direct(path, **arguments):
    """What a script that uses transformers alone gets: texts and token ids."""
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    pixels = AutoImageProcessor.from_pretrained(path)(images=PICTURES, return_tensors="pt").pixel_values
    ids = model.generate(pixel_values=pixels, **arguments)
    return AutoTokenizer.from_pretrained(path).batch_decode(ids, skip_special_tokens=True), ids


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_those_of_transformers(models, kind):
    expected, _ = direct(models[kind], do_sample=False, num_beams=1)
    assert texts(captions(captioner(models[kind], method="greedy"))) == [[text] for text in expected]
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 8}
    expected, _ = direct(models[kind], **beams, length_penalty=2.0, no_repeat_ngram_size=2)
    chosen = {"beam": 3, "n_best": 2, "max_length": 9, "length_penalty": 2.0, "no_repeat_ngram": 2}
    found = texts(captions(captioner(models[kind], **chosen)))
    assert [text for image in found for text in image] == expected


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_logprob_is_the_plain_sum_with_end(models, method):
    path = models["vision-encoder-decoder"]
    beams = {"num_beams": 3, "num_return_sequences": 2} if method == "beam" else {"num_beams": 1}
    _, ids = direct(path, do_sample=False, **beams)
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    pixels = AutoImageProcessor.from_pretrained(path)(images=PICTURES, return_tensors="pt").pixel_values
    pixels = pixels.repeat_interleave(len(ids) // 3, 0)
    with torch.no_grad():
        logits = model(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    expected = (logprobs * until_eos(ids[:, 1:], [3])).sum(1)
    found = captions(captioner(path, method=method, n_best=len(ids) // 3))
    sums = [caption["logprob"] for image in found for caption in image]
    assert sums == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_row_does_not_depend_on_its_batch_mates(models):
    loaded = captioner(models["blip"], method="sample", n_best=2, temperature=1.5, seed=4)
    together = captions(loaded)
    alone = [captions(loaded, [image], [name])[0] for image, name in zip(PICTURES, NAMES, strict=True)]
    assert together == alone
    assert captions(loaded, PICTURES, ["x", "y", "z"]) != together
    for image in together:
        assert image[0]["logprob"] >= image[1]["logprob"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_starts_every_caption_and_max_length_counts_it(models, kind):
    for (caption,) in captions(captioner(models[kind], method="greedy", prefix="two cats", max_length=6)):
        assert caption["tokens"][:2] == ["two", "cats"]
        assert len(caption["tokens"]) <= 5
        assert caption["text"] == " ".join(caption["tokens"])
    with pytest.raises(RequestError, match="has 2 tokens; expected at most 1"):
        captioner(models[kind], prefix="two cats", max_length=3)


@pytest.mark.parametrize("kind", KINDS)
def test_more_tokens_than_positions_and_unknown_words_are_refused(models, kind):
    resolve_captioner(models[kind], DecodeOptions(max_length=32, prefix="two cats"))
    with pytest.raises(RequestError, match="max-length is 33; expected at most 32, the positions"):
        resolve_captioner(models[kind], DecodeOptions(max_length=33))
    with pytest.raises(RequestError, match="prefix 'two zebras' has a word that the model does not know"):
        resolve_captioner(models[kind], DecodeOptions(prefix="two zebras"))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"keep_attention": True}, "keep-attention is True, which captioners of Hugging Face do not have")],
)
def test_what_generate_does_not_have_is_refused(models, options, said):
    with pytest.raises(RequestError, match=said):
        resolve_captioner(models["blip"], DecodeOptions(**options))


def test_what_is_not_finite_is_an_error_of_the_image(models):
    loaded = captioner(models["blip"], method="greedy")
    broken = {"pixel_values": torch.full((3, 16, 16), torch.nan)}
    with pytest.raises(ImageError, match="output for 'b' is not finite"):
        loaded.run([loaded.prepare(png(PICTURES[0])), broken], ["a", "b"])


def test_bf16_computes_in_bf16_and_has_a_fingerprint_of_its_own(models):
    loaded = captioner(models["blip"], precision="bf16", method="greedy")
    assert {parameter.dtype for parameter in loaded._model.parameters()} == {torch.bfloat16}
    assert [len(image) for image in captions(loaded)] == [1, 1, 1]
    assert loaded.fingerprint != captioner(models["blip"], method="greedy").fingerprint
