"""``captionbeam svd`` as a user meets it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from captionbeam.jobs.cli import main
from captionbeam.jobs.svd import FitComponents
from captionbeam.pipelines.bulk.find import is_sampled
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.components import components_bytes, read_components
from tests.builders.data.stores import make_captions, make_features

IDS = [f"{number}.jpg" for number in range(24)]


@pytest.fixture
def store(tmp_path) -> Store:
    return make_features(str(tmp_path / "features"), IDS, (2, 2, 5), spec={"name": "tiny"})


@pytest.fixture
def output(tmp_path) -> str:
    return str(tmp_path / "components.safetensors")


def request_of(store: Store, output: str, *more: str) -> list[str]:
    return ["svd", "--features", store.url, "--output", output, "--components", "3", *more]


def cells(store: Store, ids: list[str] | None = None) -> np.ndarray:
    rows = [batch.column("grid").to_numpy_ndarray() for batch in store.scan(["grid"], ids)]
    return np.concatenate(rows).reshape(-1, 5).astype(np.float64)


def assert_fitted(url: str, matrix: np.ndarray) -> None:
    vectors = np.linalg.svd(matrix, full_matrices=False)[2][:3]
    np.testing.assert_allclose(np.abs(read_components(url).vectors @ vectors.T), np.eye(3), atol=1e-6)


def test_components_and_a_summary(store, output, capsys):
    assert main(request_of(store, output)) == 0
    assert_fitted(output, cells(store))
    found = read_components(output)
    assert (found.vectors.dtype, found.vectors.shape, found.mean) == (np.float32, (3, 5), None)
    assert (found.about["fingerprint"], found.about["spec"]) == (store.fingerprint, {"name": "tiny"})
    assert (found.about["images"], found.about["cells"]) == (24, 96)
    ratio, cumulative = found.about["explained_variance_ratio"], found.about["cumulative"]
    assert (len(ratio), len(found.about["explained_variance"])) == (5, 3)
    assert cumulative == np.cumsum(ratio).tolist()
    assert cumulative[-1] == pytest.approx(1)
    said = capsys.readouterr().out
    assert "svd, 3 of 5 components" in said
    assert "96 cells of 24 images" in said
    assert f"3 components {cumulative[2]:.3%}, the last of them {ratio[2]:.3%}" in " ".join(said.split())


def test_from_python_it_is_silent_and_returns_the_totals(store, output, capfd):
    result = FitComponents(features=store.url, output=output, components=3).run()
    assert (result.totals["images"], result.totals["cells"], result.output) == (24, 96, output)
    assert tuple(capfd.readouterr()) == ("", "")


def test_scaled_all_channels_weigh_alike(store, output, capsys):
    matrix = cells(store)
    sizes = np.sqrt((matrix**2).mean(0))
    assert main(request_of(store, output, "--scale")) == 0
    vectors = np.linalg.svd(matrix / sizes, full_matrices=False)[2][:3]
    np.testing.assert_allclose(
        np.abs((read_components(output).vectors * sizes) @ vectors.T), np.eye(3), atol=1e-5
    )
    capsys.readouterr()
    assert main(request_of(store, output)) == 2
    assert "has components of scale on, not off; expected the same options" in capsys.readouterr().err


def test_of_a_sample_or_of_listed_images_alone(store, output, tmp_path):
    assert main(request_of(store, output, "--sample", "0.5", "--seed", "3")) == 0
    sampled = [name for name in IDS if is_sampled(name, 0.5, 3)]
    assert 0 < len(sampled) < 24
    assert_fitted(output, cells(store, sampled))
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:10]) + "\n")
    assert main(request_of(store, output, "--ids", str(tmp_path / "ids.txt"), "--overwrite")) == 0
    assert_fitted(output, cells(store, IDS[:10]))
    assert read_components(output).about["images"] == 10


def test_again_there_is_nothing_to_do(store, output, capsys):
    main(request_of(store, output))
    before = read_components(output).sha256
    capsys.readouterr()
    assert main(request_of(store, output)) == 0
    assert capsys.readouterr().out.startswith(f"nothing to do: {output} has these components already\n")
    assert main(request_of(store, output, "--center")) == 2
    assert "has components of center off, not on" in capsys.readouterr().err
    assert read_components(output).sha256 == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--components", "6"], "6 components of 5 channels; expected --components of at most as many"),
        (["--sample", "0.0001"], "no image of the store is among those of --ids, or in the --sample"),
    ],
)
def test_what_cannot_be_is_one_sentence(store, output, capsys, change, sentence):
    assert main(request_of(store, output, *change)) == 2
    assert sentence in capsys.readouterr().err


def test_another_file_holds_no_components(tmp_path):
    from safetensors.numpy import save_file

    other = str(tmp_path / "weights.safetensors")
    save_file({"weight": np.zeros(3)}, other)
    for url in (other, str(tmp_path / "nowhere")):
        with pytest.raises(RequestError, match="holds no components"):
            read_components(url)
    newer = components_bytes(np.eye(2), None, {}).replace(b'\\"version\\": 1', b'\\"version\\": 9')
    (tmp_path / "newer.safetensors").write_bytes(newer)
    with pytest.raises(RequestError, match="has version 9; this captionbeam reads up to 1"):
        read_components(str(tmp_path / "newer.safetensors"))


def test_dry_run_says_the_steps_and_writes_nothing(store, output, tmp_path, capsys):
    assert main(request_of(store, output, "--dry-run")) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["steps"], said["options"]["components"]) == (["FitComponents"], 3)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_captions_and_reduced_features_have_none(tmp_path, output, capsys):
    captions = make_captions(str(tmp_path / "captions"), {"a.jpg": "a dog"})
    assert main(request_of(captions, output)) == 2
    assert "is a store of captions; expected one of features" in capsys.readouterr().err
    reduced = make_features(str(tmp_path / "small"), IDS, (2, 2, 3), spec={"reduction": {"dim": 3}})
    assert main(request_of(reduced, output)) == 2
    assert "are reduced already; expected those of an encoder" in capsys.readouterr().err
