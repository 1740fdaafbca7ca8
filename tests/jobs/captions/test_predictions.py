"""``captionbeam predictions``: ids of a features store, captions of a token table or given; a photograph."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from captionbeam.capmodel.encoders.encoder import resolve_encoder, store_weights
from captionbeam.jobs import cli
from tests.builders.data.stores import make_features
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.model.training import make_tokens

SPEC = {"name": "none", "weights_sha256": "0" * 64, "precision": "fp32"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle for features, the features of two images, and captions of one."""
    folder = tmp_path_factory.mktemp("made")
    make_bundle((SPEC, None)).save(str(folder / "bundle"))
    make_features(str(folder / "features"), ["train/a.jpg", "train/b.jpg"], (2, 3, 5), spec=SPEC)
    make_tokens(str(folder / "tokens"), {"a.jpg": ("train", ["A dog runs.", "two cats"])})
    return folder


def predictions(made, image, *arguments, status=0):
    assert cli.main(["predictions", image, "--bundle", str(made / "bundle"), *map(str, arguments)]) == status


def test_all_captions_that_a_token_table_has_of_an_image(made, capsys):
    predictions(made, "a.jpg", "--features", made / "features", "--tokens", made / "tokens", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["image_id"] == "train/a.jpg"
    assert found["bundle"] == str(made / "bundle")
    assert [caption["caption"] for caption in found["captions"]] == ["A dog runs.", "two cats"]
    for caption, words in zip(found["captions"], (["a", "dog", "runs"], ["two", "cats"]), strict=True):
        assert [step["token"] for step in caption["steps"]] == [*words, "<end>"]
        assert caption["logprob"] == pytest.approx(
            sum(math.log(step["probability"]) for step in caption["steps"])
        )
        for step in caption["steps"]:
            chances = [word["probability"] for word in step["top"]]
            assert len(chances) == 5
            assert chances == sorted(chances, reverse=True)


def test_the_table_has_a_line_a_word(made, capsys):
    predictions(made, "train/b.jpg", "--features", made / "features", "--caption", "two cats", "--top", 2)
    predictions(
        made, "train/b.jpg", "--features", made / "features", "--caption", "two cats", "--top", 2, "--json"
    )
    *table, record = capsys.readouterr().out.splitlines()
    (caption,) = json.loads(record)["captions"]
    hits = sum(step["rank"] == 1 for step in caption["steps"])
    assert (
        table[0].strip()
        == f"two cats  ({hits} of 3 tokens predicted, log-probability {caption['logprob']:.2f})"
    )
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if "%" in line]
    assert cells == [
        [
            step["token"],
            f"{step['probability']:.1%}",
            str(step["rank"]),
            "  ".join(f"{word['token']} {word['probability']:.1%}" for word in step["top"]),
        ]
        for step in caption["steps"]
    ]


def test_a_photograph_is_encoded_first(tmp_path, capsys):
    spec, state = resolve_encoder("efficientnet_lite0", image_size=64, precision="fp32")
    weights, decoder = (
        store_weights(state, str(tmp_path / "models")),
        make_decoder(make_tokenizer(), spec.shape),
    )
    make_bundle((spec.to_dict(), weights), decoder=decoder).save(str(tmp_path / "bundle"))
    pixels = np.random.default_rng(0).integers(0, 255, (70, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.jpg")
    predictions(tmp_path, str(tmp_path / "one.jpg"), "--caption", "two cats sleep", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["image_id"] == "one.jpg"
    assert [step["token"] for step in found["captions"][0]["steps"]] == ["two", "cats", "sleep", "<end>"]


@pytest.mark.parametrize(("caption", "told"), [("two cats", False), ("two axolotls", True)])
def test_words_that_the_model_does_not_know_are_told(made, capsys, caption, told):
    predictions(made, "train/b.jpg", "--features", made / "features", "--caption", caption)
    *_, last = capsys.readouterr().out.splitlines()
    assert (last == "<unk> stands for words that are not in the model's vocabulary") == told
