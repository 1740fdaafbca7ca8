"""Folders of transformers: what of them counts, how they are kept, which are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner, resolve_captioner
from captionbeam.capmodel.captioners.huggingface.folders import open_folder, stored_folder
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_file
from tests.builders.model.transformers_models import save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Path(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_every_file_counts_but_code_cards_pickles_and_hidden_ones(folder):
    before = open_folder(str(folder))
    assert set(before.files) == {"config.json", "generation_config.json", "model.safetensors",
                                 "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
                                 "vocab.txt"}  # fmt: skip
    assert before.files["vocab.txt"] == sha256_file(str(folder / "vocab.txt"))
    for name in ("README.md", "pytorch_model.bin", "modeling.py", ".gitattributes", ".cache/x.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"else")
    assert open_folder(str(folder)).sha256 == before.sha256
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 7}))
    assert open_folder(str(folder)).sha256 != before.sha256


def test_the_fingerprint_is_of_files_and_options(folder):
    def settled(**options):
        return resolve_captioner(str(folder), DecodeOptions(**options)).fingerprint

    before = settled()
    assert settled() == before
    assert len({before, settled(beam=2), settled(method="greedy"), settled(max_length=9)}) == 4
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 7}))
    assert settled() != before


def test_a_folder_is_kept_once_by_its_hash_and_checked_where_it_is_read(folder, tmp_path):
    opened = open_folder(str(folder))
    kept = opened.store(str(tmp_path / "models"))
    assert Path(kept).name == opened.sha256
    assert stored_folder(kept).sha256 == opened.sha256 == open_folder(kept).sha256
    before = Path(kept, "config.json").stat().st_mtime_ns
    opened.store(str(tmp_path / "models"))
    assert Path(kept, "config.json").stat().st_mtime_ns == before
    Path(kept, "model.safetensors").write_bytes(b"garbage")
    with (
        pytest.raises(FingerprintError, match="model.safetensors in .* has SHA-256"),
        stored_folder(kept).local_copy(),
    ):
        pass
    with opened.local_copy(), stored_folder(opened.store(str(tmp_path / "models"))).local_copy():
        pass  # keeping it again replaced the garbage


def test_pickled_weights_are_never_loaded(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        RequestError, match=r"has no .safetensors file; expected one that save_pretrained wrote"
    ):
        open_folder(str(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "is a model of bert; expected one that writes text about images"),
        ({"model_type": "llava", "image_token_index": 7}, "is a model of llava, which answers prompts"),
    ],
)
def test_other_models_are_refused(folder, change, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": config["model_type"], **change}))
    with pytest.raises(RequestError, match=said):
        resolve_captioner(str(folder), DecodeOptions())


@pytest.mark.parametrize("content", [b"", b"{"])
@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
)
def test_rubbish_in_a_file_is_one_sentence(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(RequestError, match="(is not JSON|cannot be opened|cannot be loaded) .*; expected"):
        resolve_captioner(str(folder), DecodeOptions())


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Path(save_model(tmp_path_factory.mktemp("other"), "vision-encoder-decoder"))


def weights_of(other, tmp_path, change):
    """The folder ``other`` with its weights as ``change`` leaves them."""
    copy = Path(shutil.copytree(other, tmp_path / "other"))
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


POSITIONS = "decoder.bert.embeddings.position_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda weights: weights.pop(POSITIONS),
            f"1 of the model's .* another shape .{POSITIONS}.; expected",
        ),
        (lambda weights: weights.update({POSITIONS: torch.zeros(5, 5)}), f"1 of the model's .*{POSITIONS}"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(other, tmp_path, change, said):
    path = weights_of(other, tmp_path, change)
    with pytest.raises(RequestError, match=said):
        resolve_captioner(path, DecodeOptions())
    spec = resolve_captioner(str(other), DecodeOptions()).spec
    with pytest.raises(RequestError, match=said):
        HuggingFaceCaptioner.load(open_folder(path), DecodeOptions(), spec, 1, "cpu")


@pytest.mark.parametrize("kind", ["blip"])
def test_a_folder_without_a_tokenizer_is_refused(kind, tmp_path):
    """transformers makes one without words of it, and every caption would be empty."""
    folder = Path(save_model(tmp_path / kind, kind))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(
        RequestError, match=r"the tokenizer of .* knows no word, .*; expected its files beside"
    ):
        resolve_captioner(str(folder), DecodeOptions())
