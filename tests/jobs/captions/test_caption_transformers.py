"""``captionbeam caption --captioner hf:PATH``: a tiny random BLIP in the same bulk job as a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner, resolve_captioner
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.jobs import cli
from captionbeam.jobs.options import captioners
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.model.transformers_models import save_model

IMAGES = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 255, (30 + number, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{number}.png")
    (folder / "photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    save_model(folder / "blip")
    return folder


def command(made, store, *arguments):
    return ["caption", made / "photos", "--captioner", f"hf:{made / 'blip'}", "--output", store, "--batch-size", 4,
            "--warn-failures", 1, "--shard-size", 1, "--n-best", 2, *arguments]  # fmt: skip


def rows(store):
    return {
        row["image_id"]: [(caption["text"], round(caption["logprob"], 4)) for caption in row["captions"]]
        for batch in Store.open(str(store)).scan(["image_id", "captions"])
        for row in batch.to_pylist()
    }


@pytest.fixture(scope="module")
def expected(made):
    options = DecodeOptions(n_best=2)
    plan = resolve_captioner(str(made / "blip"), options)
    captioner = HuggingFaceCaptioner.load(plan.folder, options, plan.spec, 4, "cpu")
    found = {}
    for number in range(IMAGES):
        item = captioner.prepare((made / f"photos/{number}.png").read_bytes())
        (captions,) = captioner.run([item], [str(number)])["captions"].to_pylist()
        found[f"{number}.png"] = [(one["text"], round(one["logprob"], 4)) for one in captions]
    return found


@pytest.fixture(scope="module")
def captioned(made, tmp_path_factory):
    store = tmp_path_factory.mktemp("captioned") / "store"
    run(*command(made, store))
    return store


def run(*arguments, status=0):
    """In this process, which has transformers loaded."""
    assert cli.main([str(argument) for argument in arguments]) == status


def test_the_store_has_the_captions_of_the_model(captioned, expected):
    assert rows(captioned) == expected
    (failure,) = Store.open(str(captioned)).failures().to_pylist()
    assert (failure["image_id"], failure["stage"]) == ("broken.png", "decode")


def test_evaluate_and_report_read_the_store(captioned, tmp_path, capsys):
    references = tmp_path / "references.jsonl"
    lines = [{"file_name": f"{number}.png", "captions": ["two cats on grass"]} for number in range(IMAGES)]
    references.write_text("\n".join(map(json.dumps, lines)))
    run("evaluate", "--captions", captioned, "--references", references)
    assert "CIDEr" in capsys.readouterr().out
    run("report", "--captions", captioned, "--references", references, "--output", tmp_path / "r.html")
    assert "blip" in (tmp_path / "r.html").read_text()


def test_without_output_captions_are_printed(made, expected, capsys):
    run("caption", made / "photos/3.png", "--captioner", f"hf:{made / 'blip'}")
    assert capsys.readouterr().out == f"{expected['3.png'][0][0] or '(empty caption)'}\n"


def refused(capsys, *arguments):
    assert cli.main(["caption", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_is_refused_with_a_sentence(made, capsys, monkeypatch):
    blip = ["--captioner", f"hf:{made / 'blip'}"]
    photos = made / "photos"
    assert "need one of --bundle and --captioner" in refused(capsys, photos)
    assert "need one of --bundle and --captioner" in refused(capsys, photos, *blip, "--bundle", "b")
    assert "expected openai: and a URL, vllm: and a model, or hf: and a folder" in refused(
        capsys, photos, "--captioner", made / "blip"
    )
    assert "--captioner reads images, not --features" in refused(
        capsys, "--features", "f", *blip, "--output", "s"
    )
    assert "keep-attention is True" in refused(capsys, photos, *blip, "--keep-attention")
    assert "no config.json" in refused(capsys, photos, "--captioner", f"hf:{made / 'none'}")
    monkeypatch.setattr(captioners.importlib.util, "find_spec", lambda name: None)
    assert (
        "--captioner hf: transformers is not installed; expected pip install '.[huggingface]' in a clone of captionbeam"
    ) in refused(capsys, photos, *blip)


def test_the_store_keeps_the_model_which_upkeep_knows(made, captioned, expected):
    (kept,) = Path(captioned, "models").iterdir()
    assert kept.name == Store.open(str(captioned)).spec["transformers"]
    names = sorted([*(path.name for path in (made / "blip").iterdir()), "captionbeam.json"])
    run("store", "vacuum", captioned, "--keep", 1, "--grace", 0)
    assert sorted(path.name for path in kept.iterdir()) == names
    retry = ["store", "retry-failures", captioned, "--all", "--batch-size", 4, "--warn-failures", 1]
    run(*retry)  # with the model that the store keeps: the broken one fails again
    assert rows(captioned) == expected
    run("store", "verify", captioned)
    (kept / "vocab.txt").write_text("else")
    run("store", "verify", captioned, status=1)


def test_refresh_does_only_what_is_new(made, captioned, expected, tmp_path):
    store = shutil.copytree(captioned, tmp_path / "store")
    before = layout.committed_shards(str(store))
    run("refresh", *command(made, store)[1:])
    assert layout.committed_shards(str(store)) == before
    assert rows(store) == expected
