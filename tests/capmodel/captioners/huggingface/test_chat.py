"""Chat models of transformers: the token ids of ``generate`` itself, for a tiny random one of each family."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner, resolve_chat
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.pipelines.workers.batches import Prepared, run_batch
from captionbeam.pipelines.workers.processors import columns_of
from captionbeam.schemas.errors import ImageError, RequestError
from captionbeam.schemas.records import ImageRef
from tests.builders.model.chat_families import FAMILIES, save_chat_family

PROMPTS = {"what": {"text": "describe the picture"}, "colour": {"text": "which colours"}}
SYSTEM = "describe"
WITHOUT_TEMPLATE = {"paligemma": "<image>", "florence2": ""}  # what stands before a prompt
GREEDY = DecodeOptions(method="greedy")
SIZES = [(40, 30), (30, 40), (64, 16), (40, 30), (24, 24), (20, 52)]
NAMES = [f"{number}.png" for number in range(16)]


def picture(seed):
    """Four rectangles of random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return Image.fromarray(colours).resize(SIZES[seed % len(SIZES)], Image.Resampling.NEAREST)


PICTURES = [picture(seed) for seed in range(16)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(family):
        if family not in made:
            made[family] = save_chat_family(tmp_path_factory.mktemp(family), family)
        return made[family]

    return model


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def captioner(path, batch_size, decode=GREEDY, prompts=PROMPTS, **options):
    plan = resolve_chat(path, prompts, decode, **options)
    return ChatCaptioner.load(plan.folder, plan.spec, columns_of(plan.spec), batch_size, "cpu")


def answers(loaded, pictures=PICTURES, names=NAMES):
    """Each image's answers by column, from batches of consecutive images."""
    items = [loaded.prepare(png(image)) for image in pictures]
    found = {}
    for start in range(0, len(items), loaded.batch_size):
        part = slice(start, start + loaded.batch_size)
        columns = loaded.run(items[part], names[part])
        rows = [
            dict(zip(columns, row, strict=True))
            for row in zip(*(one.to_pylist() for one in columns.values()), strict=True)
        ]
        found |= dict(zip(names[part], rows, strict=True))
    return found


def conversation(image, text, system):
    user = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user] if system else [user]


def inputs(processor, pictures, text, before):
    """The inputs of a batch, as the documentation of transformers makes them."""
    if before is not None:
        given = processor(
            text=[before + text] * len(pictures),
            images=[[one] for one in pictures],
            return_tensors="pt",
            padding=True,
        )
        return {name: value for name, value in given.items() if name != "labels"}
    return processor.apply_chat_template(
        [conversation(image, text, SYSTEM) for image in pictures],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


def direct(path, text, batch_size, before=None, **arguments):
    """What a script that uses transformers alone gets in batches: each image's texts and numbers of tokens."""
    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    processor.tokenizer.padding_side = "left"
    found = []
    for start in range(0, len(PICTURES), batch_size):
        given = inputs(processor, PICTURES[start : start + batch_size], text, before)
        with torch.no_grad():
            ids = model.generate(**given, **{"do_sample": False, "max_new_tokens": 64, **arguments})
        new = ids[:, 1 if model.config.is_encoder_decoder else given["input_ids"].shape[1] :]
        texts = processor.batch_decode(new, skip_special_tokens=True)
        ends = (new == model.generation_config.eos_token_id).long().argmax(1) + 1
        found += [(text.strip(), int(end)) for text, end in zip(texts, ends, strict=True)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_answers_are_those_of_transformers(models, family, batch_size):
    path, before = models(family), WITHOUT_TEMPLATE.get(family)
    found = answers(captioner(path, batch_size, system=SYSTEM if before is None else ""))
    for column, prompt in PROMPTS.items():
        expected = direct(path, prompt["text"], batch_size, before)
        assert len({text for text, _ in expected}) > 4
        own = [(found[name][column][0]["text"], found[name][column][0]["tokens_out"]) for name in NAMES]
        assert own == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "decode",
    [GREEDY, DecodeOptions(method="sample", temperature=1.5, seed=4, n_best=2)],
    ids=["greedy", "sample"],
)
def test_a_row_does_not_depend_on_the_order(models, family, decode):
    loaded = captioner(models(family), 4, decode)
    expected = answers(loaded)
    for seed in range(3):
        order = random.Random(seed).sample(range(16), 16)
        assert answers(loaded, [PICTURES[one] for one in order], [NAMES[one] for one in order]) == expected


def test_a_model_without_a_place_for_a_system_message_says_so(models):
    with pytest.raises(
        RequestError, match="is a model of paligemma, which has no place for --system; expected none"
    ):
        captioner(models("paligemma"), 1, system=SYSTEM)


def test_larger_pictures_are_scaled_down_first(models):
    loaded = captioner(models("qwen2_vl"), 1, max_image_pixels=256)
    whole = captioner(models("qwen2_vl"), 1)
    wide = picture(0).resize((64, 32))
    assert loaded.prepare(png(wide)).inputs["what"]["image_grid_thw"].tolist() == [[1, 2, 6]]
    assert whole.prepare(png(wide)).inputs["what"]["image_grid_thw"].tolist() == [[1, 4, 10]]


def test_a_picture_that_the_processor_refuses_is_a_failure(models):
    with pytest.raises(ImageError, match="aspect ratio must be smaller than 200"):
        captioner(models("qwen2_vl"), 1).prepare(png(Image.new("RGB", (900, 2))))


def test_one_image_that_fails_costs_no_second_generation_of_the_others(models, monkeypatch):
    """A batch is halved to find the image; the answers of the others are kept meanwhile."""
    loaded = captioner(models("llava"), 4)
    items = [loaded.prepare(png(one)) for one in PICTURES[:4]]
    items[2].found = {column: ImageError("cut_off", "model", "too long") for column in PROMPTS}
    calls, generate = [], loaded._model.generate
    monkeypatch.setattr(loaded._model, "generate", lambda **given: calls.append(1) or generate(**given))
    refs = [ImageRef(name, name, "1", "s") for name in NAMES[:4]]
    results = run_batch([Prepared(ref, "", item) for ref, item in zip(refs, items, strict=True)], loaded)
    assert len(calls) == len(PROMPTS)
    errors = [(part[0].ref.image_id, str(found)) for part, found in results if isinstance(found, ImageError)]
    assert errors == [("2.png", "model: cut_off: prompt colour: too long")]
    expected = answers(loaded, PICTURES[:4], NAMES[:4])
    for part, found in results:
        if not isinstance(found, ImageError):
            for place, one in enumerate(part):
                assert {name: found[name][place].as_py() for name in PROMPTS} == expected[one.ref.image_id]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_bf16_and_beams(models, family):
    found = answers(captioner(models(family), 4, DecodeOptions(beam=2, n_best=2), precision="bf16"))
    assert all(1 <= len(row[column]) <= 2 for row in found.values() for column in PROMPTS)
