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
from captionbeam.pipelines.workers.processors import columns_of
from tests.builders.model.chat_families import FAMILIES, save_chat_family

PROMPTS = {"what": {"text": "describe the picture"}, "colour": {"text": "which colours"}}
SYSTEM = "describe"
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


def direct(path, text, batch_size, system=SYSTEM, **arguments):
    """What a script that uses transformers alone gets in batches: each image's texts and numbers of tokens."""
    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    processor.tokenizer.padding_side = "left"
    found = []
    for start in range(0, len(PICTURES), batch_size):
        given = processor.apply_chat_template(
            [conversation(image, text, system) for image in PICTURES[start : start + batch_size]],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip
        with torch.no_grad():
            ids = model.generate(**given, **{"do_sample": False, "max_new_tokens": 64, **arguments})
        new = ids[:, given["input_ids"].shape[1] :]
        texts = processor.batch_decode(new, skip_special_tokens=True)
        ends = (new == model.generation_config.eos_token_id).long().argmax(1) + 1
        found += [(text.strip(), int(end)) for text, end in zip(texts, ends, strict=True)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_answers_are_those_of_transformers(models, family, batch_size):
    path = models(family)
    found = answers(captioner(path, batch_size, system=SYSTEM))
    for column, prompt in PROMPTS.items():
        expected = direct(path, prompt["text"], batch_size)
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
