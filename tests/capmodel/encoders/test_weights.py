"""Weights: found by name, path or URL, checked key by key, kept under their hash."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from captionbeam.capmodel.encoders.backbones import get_backbone
from captionbeam.capmodel.encoders.weights import (
    hub_weights,
    load_into,
    read_weights,
    store_weights,
    weights_bytes,
)
from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_bytes, sha256_file
from captionbeam.schemas.storage import files


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


STATE = {key: value.clone() for key, value in small_network().state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def sentence(call, *args, error=RequestError):
    with pytest.raises(error) as caught:
        call(*args)
    return str(caught.value)


@pytest.fixture
def pth(tmp_path):
    path = str(tmp_path / "small.pth")
    torch.save(STATE, path)
    return path


def test_a_pth_and_a_safetensors_file_say_the_same(tmp_path, pth):
    save_file(STATE, tmp_path / "small.safetensors")
    assert same(read_weights(pth), STATE)
    assert same(read_weights(str(tmp_path / "small.safetensors")), STATE)


def test_a_stated_hash_is_checked(pth):
    right = sha256_file(pth)
    assert same(read_weights(f"{pth}#sha256={right.upper()}"), STATE)
    assert sentence(read_weights, f"{pth}#sha256=00", error=FingerprintError) == (
        f"weights '{pth}' have sha256 {right}; expected 00"
    )


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_pickle_is_never_run(tmp_path, capsys):
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pkl"):
        said = sentence(read_weights, str(tmp_path / name))
        assert said.startswith(f"weights '{tmp_path / name}' cannot be read")
        assert said.endswith("expected .safetensors or a .pth of tensors alone")
    assert "never" not in capsys.readouterr().out


def test_what_is_no_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    said = sentence(read_weights, str(tmp_path / "list.pth"))
    assert said == f"weights '{tmp_path / 'list.pth'}' are no state dict; expected names and tensors"
    (tmp_path / "cut.safetensors").write_bytes(save(STATE)[:-10])
    assert "cannot be read" in sentence(read_weights, str(tmp_path / "cut.safetensors"))
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "cannot be read" in sentence(read_weights, str(tmp_path / "empty.pth"))


def test_a_hub_out_of_reach_is_one_sentence_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    said = sentence(hub_weights, "resnet50", "IMAGENET1K_V1")
    assert said.startswith("weights IMAGENET1K_V1 of resnet50 cannot be fetched (")
    assert said.endswith(
        "); expected a connection to torchvision's hub, or --weights FILE with a copy of them"
    )


def test_a_published_name_is_loaded_from_torchvisions_hub_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(STATE, tmp_path / "hub/checkpoints/resnet50-0676ba61.pth")
    assert same(get_backbone("resnet50").weights("IMAGENET1K_V1"), STATE)


def test_every_key_and_shape_has_to_fit():
    def load(state):
        load_into(small_network(), state, "small")

    assert sentence(load, {key: STATE[key] for key in STATE if key != "0.bias"}) == (
        "the weights are without the key '0.bias'; small needs it"
    )
    assert sentence(load, {"1.running_var": STATE["1.running_var"]}) == (
        "the weights are without the key '0.bias'; small needs it (5 such keys)"
    )
    assert sentence(load, {**STATE, "fc.weight": torch.zeros(1)}) == (
        "the weights have the key 'fc.weight', which small does not know"
    )
    assert sentence(load, {**STATE, "0.bias": torch.zeros(5)}) == (
        "weights '0.bias' have shape [5]; small expects [4]"
    )


@pytest.mark.parametrize("models", ["folder", "memory://store/models"])
def test_weights_are_kept_once_under_their_hash(tmp_path, models):
    models = str(tmp_path / "models") if models == "folder" else models
    url = store_weights(STATE, models)
    assert url == f"{models}/{sha256_bytes(weights_bytes(STATE))}.safetensors"
    assert sha256_file(url) in url
    assert store_weights(dict(reversed(STATE.items())), models) == url
    files.write_atomic(url, weights_bytes(STATE)[:-1])
    assert sha256_file(store_weights(STATE, models)) in url
    assert files.names(models) == [url.rsplit("/", 1)[1]]
