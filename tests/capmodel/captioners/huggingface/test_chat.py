"""Chat models of transformers: the token ids of ``generate`` itself, for a tiny random one of each family."""

from __future__ import annotations

import io
import random
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from captionbeam.capmodel.captioners.grammars import bounded
from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner
from captionbeam.capmodel.captioners.huggingface.chat_plan import resolve_chat
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.pipelines.workers.batches import Prepared, in_batches, run_batch
from captionbeam.pipelines.workers.processors import columns_of, parsers_of
from captionbeam.schemas.errors import ImageError, RequestError
from captionbeam.schemas.records import ImageRef
from tests.builders.model import chat_models
from tests.builders.model.chat_families import FAMILIES, VOCABULARY, save_chat_family
from tests.builders.model.chat_models import END

PROMPTS = {"what": {"text": "describe the picture"}, "colour": {"text": "which colours"}}
SYSTEM = "describe"
WITHOUT_TEMPLATE = {"paligemma": "<image>", "florence2": ""}  # what stands before a prompt
GREEDY = DecodeOptions(method="greedy")
SIZES = [(40, 30), (30, 40), (64, 16), (40, 30), (24, 24), (20, 52)]
IMAGES = 12
ENDS = {own[END] for own in (VOCABULARY, chat_models.VOCABULARY)}  # which no other word has
NAMES = [f"{number}.png" for number in range(IMAGES)]


def picture(seed):
    """Four rectangles of random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return Image.fromarray(colours).resize(SIZES[seed % len(SIZES)], Image.Resampling.NEAREST)


PICTURES = [picture(seed) for seed in range(IMAGES)]


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
    return ChatCaptioner.load(
        plan.folder, plan.spec, columns_of(plan.spec), parsers_of(plan.spec), batch_size, "cpu"
    )


def answers(loaded, pictures=PICTURES, names=NAMES, used=None):
    """Each image's answers by column, from batches of one shape as a job makes them."""
    refs = [ImageRef(name, name, "1", "s") for name in names]
    values = used or [{}] * len(names)
    items = [loaded.prepare(png(image), own) for image, own in zip(pictures, values, strict=True)]
    prepared = [Prepared(ref, "", item) for ref, item in zip(refs, items, strict=True)]
    found = {}
    for batch in in_batches(prepared, loaded):
        ids = [one.ref.image_id for one in batch]
        columns = loaded.run([one.value for one in batch], ids)
        for place, name in enumerate(ids):
            found[name] = {column: values[place].as_py() for column, values in columns.items()}
    return found


@contextmanager
def watched(loaded):
    """Yields a list that gets, for each call of ``generate``, the images' ids and the token ids."""
    calls, generate = [], loaded.generate

    def watching(column, rows, image_ids):
        tokens, finite = generate(column, rows, image_ids)
        calls.append((list(image_ids), tokens.tolist()))
        return tokens, finite

    loaded.generate = watching
    yield calls
    del loaded.generate


def until_end(ids):
    """Generated ids up to END, after which transformers pads to the batch's longest."""
    return ids[: next(place for place, one in enumerate(ids) if one in ENDS) + 1]


def generated(loaded, *arguments):
    """Each image's generated ids, by the number of the prompt."""
    with watched(loaded) as calls:
        answers(loaded, *arguments)
    found = {name: [] for name in NAMES}
    for names, tokens in calls:
        for name, ids in zip(names, tokens, strict=True):
            if name:  # not a copy
                found[name].append(until_end(ids))
    return found


def conversation(image, text, system):
    user = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user] if system else [user]


def inputs(processor, pictures, texts, before):
    """The inputs of a batch, as the documentation of transformers makes them."""
    if before is not None:
        given = processor(
            text=[before + text for text in texts],
            images=[[one] for one in pictures],
            return_tensors="pt",
            padding=True,
        )
        return {name: value for name, value in given.items() if name != "labels"}
    return processor.apply_chat_template(
        [conversation(image, text, SYSTEM) for image, text in zip(pictures, texts, strict=True)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


@pytest.fixture(scope="module")
def direct(models):
    """What a script that uses transformers alone gets in batches of 1 or 16: each image's generated ids."""
    made = {}

    def load(family):
        path = models(family)
        processor = AutoProcessor.from_pretrained(path)
        model = AutoModelForImageTextToText.from_pretrained(path).eval()
        processor.tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
        return processor, model

    def run(family, texts, batch_size):
        if family not in made:
            made[family] = load(family)
        processor, model = made[family]
        found = []
        for start in range(0, IMAGES, batch_size):
            part = slice(start, start + batch_size)
            given = inputs(processor, PICTURES[part], texts[part], WITHOUT_TEMPLATE.get(family))
            with torch.no_grad():
                ids = model.generate(**given, do_sample=False, max_new_tokens=64)
            new = ids[:, 1 if model.config.is_encoder_decoder else given["input_ids"].shape[1] :]
            found += map(until_end, new.tolist())
        return found

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_token_ids_are_those_of_transformers(models, direct, family):
    """In batches of 1 and 16, in each of which transformers pads pictures of several shapes to the longest prompt."""
    system = "" if family in WITHOUT_TEMPLATE else SYSTEM
    one, many = (captioner(models(family), size, system=system) for size in (1, 16))
    texts = [[PROMPTS[column]["text"]] * IMAGES for column in sorted(PROMPTS)]
    found = generated(many)
    assert found == generated(one)
    for number, asked in enumerate(texts):
        expected = direct(family, asked, 16)
        assert [found[name][number] for name in NAMES] == expected == direct(family, asked, 1)
        assert len(set(map(tuple, expected))) > 2
    words = one._processor.tokenizer
    for name, row in answers(many).items():
        for ids, column in zip(found[name], sorted(PROMPTS), strict=True):
            (answer,) = row[column]
            assert answer["text"] == words.decode(ids, skip_special_tokens=True)
            assert answer["tokens_out"] == len(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_several_lengths_are_padded(models, direct, family):
    """``{column}`` in a prompt: pictures of one shape share a batch whatever their values."""
    system = "" if family in WITHOUT_TEMPLATE else SYSTEM
    said = ["the picture", "colours", "", "which which colours", "a dog", "a red ball"]
    values = [said[number % len(said)] for number in range(IMAGES)]
    prompts = {"x": {"text": "describe {what} which"}}
    found = [
        generated(
            captioner(models(family), size, prompts=prompts, system=system),
            PICTURES,
            NAMES,
            [{"what": value} for value in values],
        )
        for size in (1, 16)
    ]
    expected = direct(family, [f"describe {value} which" for value in values], 1)
    assert found == [{name: [ids] for name, ids in zip(NAMES, expected, strict=True)}] * 2


DRAWN = DecodeOptions(method="sample", temperature=1.5, seed=4, n_best=2)


@pytest.mark.parametrize(
    ("family", "decode"),
    [*((family, GREEDY) for family in FAMILIES), *((family, DRAWN) for family in ("qwen2_vl", "florence2"))],
)
def test_a_row_does_not_depend_on_the_order(models, family, decode):
    loaded = captioner(models(family), 4, decode)
    expected = answers(loaded)
    for seed in range(2):
        order = random.Random(seed).sample(range(IMAGES), IMAGES)
        assert answers(loaded, [PICTURES[one] for one in order], [NAMES[one] for one in order]) == expected


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llava"])
def test_each_family_heeds_a_schema(models, family):
    """Of a vocabulary with ``true`` and ``false`` among other words."""
    prompts = {"sure": {"text": "describe", "schema": '{"type": "boolean"}'}, "what": {"text": "describe"}}
    loaded = captioner(models(family), 4, prompts=prompts)
    found = generated(loaded)
    said = {VOCABULARY[word]: word == "true" for word in ("true", "false")}
    for name, row in answers(loaded).items():
        boolean, _ = found[name]
        assert boolean[1:] == [VOCABULARY[END]]
        assert row["sure"][0]["value"] is said[boolean[0]]
        assert "value" not in row["what"][0]
    assert any(len(words) > 2 for _, words in found.values())


def test_only_images_of_one_shape_share_a_batch_and_copies_fill_it_up(models):
    """Twelve pictures of five sizes; two of them make one shape."""
    loaded = captioner(models("qwen2_vl"), 2, prompts={"what": PROMPTS["what"]})
    shapes = {}
    for name, image in zip(NAMES, PICTURES, strict=True):
        shapes.setdefault(loaded.shape_of(loaded.prepare(png(image))), set()).add(name)
    with watched(loaded) as calls:
        answers(loaded)
    batches = [names for names, _ in calls]
    assert all(len(names) == 2 for names in batches)
    assert sorted(name for names in batches for name in names if name) == sorted(NAMES)
    for names in batches:
        assert any({*names} - {""} <= alike for alike in shapes.values())
    assert len(batches) == sum(-(-len(alike) // 2) for alike in shapes.values())


def test_a_model_without_a_place_for_a_system_message_says_so(models):
    with pytest.raises(
        RequestError, match="is a model of paligemma, which has no place for --system; expected none"
    ):
        captioner(models("paligemma"), 1, system=SYSTEM)


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    for folder, words in (("small", chat_models.WORDS), ("large", (*chat_models.WORDS, *map(str, range(9))))):
        chat_models.save_chat_model(tmp_path / folder, words=words)
    resolve_chat(str(tmp_path / "small"), PROMPTS, GREEDY)
    shutil.copy(tmp_path / "large" / "tokenizer.json", tmp_path / "small")
    with pytest.raises(
        RequestError, match=r"gives the prompt's words ids up to 32, but the model knows those below 24"
    ):
        resolve_chat(str(tmp_path / "small"), PROMPTS, GREEDY)


def test_a_text_with_the_mark_of_the_image_is_refused(models):
    with pytest.raises(RequestError, match=r"has '\[IMAGE\]', which stands for the image"):
        resolve_chat(models("llava"), {"what": {"text": "describe [IMAGE] twice"}}, GREEDY)
    loaded = captioner(models("llava"), 1, prompts={"what": {"text": "describe {title}"}})
    with pytest.raises(ImageError, match=r"the prompt has '\[IMAGE\]', which stands for the image"):
        loaded.prepare(png(picture(0)), {"title": "the [IMAGE]"})


def test_a_prompt_longer_than_the_model_reads(models):
    with pytest.raises(
        RequestError, match=r"has \d+ tokens with its image, and .* reads \d+; expected a shorter one"
    ):
        resolve_chat(models("florence2"), {"what": {"text": "describe " * 3000}}, GREEDY)
    loaded = captioner(models("florence2"), 1, prompts={"what": {"text": "describe {title}"}})
    with pytest.raises(ImageError, match=r"the prompt has \d+ tokens with its image; the model reads \d+"):
        loaded.prepare(png(picture(0)), {"title": "picture " * 3000})


def test_integers_of_a_schema_have_64_bits_unless_it_bounds_them():
    least, most = -(2**63), 2**63 - 1
    inner = {"type": ["integer", "null"], "exclusiveMinimum": 0}
    schema = {"properties": {"n": inner, "default": {"type": "integer"}}, "enum": [{"type": "integer"}]}
    assert bounded(schema) == {
        "properties": {
            "n": {**inner, "maximum": most},
            "default": {"type": "integer", "minimum": least, "maximum": most},
        },
        "enum": [{"type": "integer"}],
    }


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
