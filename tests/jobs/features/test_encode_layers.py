"""``captionbeam encode --layers`` and ``svd --scale``: from pictures to components of several layers."""

from __future__ import annotations

import pytest
from PIL import Image
from safetensors.torch import save_file

from captionbeam.jobs.cli import main
from captionbeam.schemas import Store
from tests.builders.data.images import drawn
from tests.builders.model.networks import random_network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures, and weights of a small network."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "photos").mkdir()
    for number in range(6):
        Image.fromarray(drawn(90 + number, 80)).save(folder / "photos" / f"{number}.png")
    save_file(random_network("resnet18").state_dict(), folder / "weights.safetensors")
    return folder


def encode(place, store, *more):
    network = ["--encoder", "resnet18", "--weights", str(place / "weights.safetensors"), "--image-size", "64"]
    return main(
        ["encode", str(place / "photos"), "--output", str(store), *network, "--precision", "fp32", *more]
    )


def test_layers_become_components_that_encode_reduces_with(place, tmp_path, capsys):
    assert encode(place, tmp_path / "layers", "--layers", "layer3, layer4") == 0
    store = Store.open(str(tmp_path / "layers"))
    assert (store.count(), store.shape, store.spec["layers"]) == (6, (2, 2, 768), ["layer3", "layer4"])
    components = str(tmp_path / "components.safetensors")
    assert main(["svd", "--features", store.url, "--output", components, "--components", "8", "--scale"]) == 0
    assert encode(place, tmp_path / "small", "--layers", "layer3,layer4", "--reduce", components) == 0
    assert Store.open(str(tmp_path / "small")).shape == (2, 2, 8)
    capsys.readouterr()
    assert encode(place, tmp_path / "other", "--reduce", components) == 2
    assert "layers" in capsys.readouterr().err


def test_the_same_store_takes_no_other_layers(place, tmp_path, capsys):
    assert encode(place, tmp_path / "store", "--layers", "layer4") == 0
    assert encode(place, tmp_path / "store", "--layers", "layer3") == 2
    assert "was made with layers layer4, not layer3" in capsys.readouterr().err
    assert encode(place, tmp_path / "new", "--layers", "layer7") == 2
    assert "resnet18 has no layer 'layer7'; expected modules such as" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
