"""Every kind of model on the device, against the CPU: in float32, in bfloat16, and by worker jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.in_worker import in_worker
from captionbeam.capmodel.captioners.captioner import Captioner
from captionbeam.capmodel.captioners.huggingface.scorer import Scorer, resolve_scorer
from captionbeam.capmodel.encoders.encoder import Encoder
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.processors import plan_chat, plan_encoder, plan_transformers
from tests.builders.model.chat_models import save_chat_model
from tests.builders.model.encoding import features, stored
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.model.networks import random_network
from tests.builders.model.scorers import save_scorer
from tests.builders.model.towers import SIDE, TOWERS, save_tower
from tests.builders.model.transformers_models import save_model
from tests.gpu.conftest import note

LEAST = 0.9999
"""Cosine of float32 features of the device to the CPU's."""


def computed(job: Any, column: str, photos: list[Path]) -> list[Any]:
    """A worker process's rows of ``column``."""
    return in_worker(Engine(job.load(threads=4), 4), column, lambda row: row)(photos)


def cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The smallest of the rows' cosines."""
    a, b = (torch.from_numpy(each).double().flatten(1) for each in (ours, theirs))
    return float(torch.cosine_similarity(a, b).min())


def network(tmp_path: Path, name: str) -> dict[str, Any]:
    """Options of an encoder with random weights, or those of its package."""
    if name == "efficientnet_lite0":
        return {"name": name}
    if name.startswith("timm:"):
        timm = pytest.importorskip("timm")
        torch.manual_seed(5)
        state = timm.create_model(name.removeprefix("timm:"), pretrained=False).state_dict()
    else:
        state = random_network(name).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    return {"name": name, "weights": str(tmp_path / "weights.pth")}


ENCODERS = {
    "efficientnet_lite0": {},
    "resnet18": {"layers": ("layer3", "layer4")},
    "inception_v3": {"image_size": 139},
    "timm:test_vit": {"image_size": 160, "output": "pooled"},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_features_equal_the_cpus(device, tmp_path, name):
    options = {**network(tmp_path, name), **ENCODERS[name]}
    spec, weights = stored(tmp_path, **options)
    least = cosine(*(features(Encoder.load(spec, weights, 8, where)) for where in (device, "cpu")))
    note(f"{name}: cosine to the CPU, fp32", f"{least:.6f}")
    assert least > LEAST


def test_features_in_bfloat16_are_near_those_in_float32(device, tmp_path):
    found = [
        features(Encoder.load(*stored(tmp_path, precision=precision), 8, device))
        for precision in ("fp32", "bf16")
    ]
    note("efficientnet_lite0: cosine of bf16 to fp32", f"{cosine(*found):.4f}")
    assert cosine(*found) > 0.99


def test_a_row_does_not_depend_on_its_batch(device, tmp_path):
    encoder = Encoder.load(*stored(tmp_path), 8, device)
    pixels = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(8)]
    whole = encoder.run(pixels, ["x"] * 8)["grid"]
    alone = np.concatenate([encoder.run([one], ["x"])["grid"] for one in pixels])
    np.testing.assert_array_equal(alone, whole)


@pytest.mark.parametrize("kind", TOWERS)
def test_towers_equal_the_cpus(device, tmp_path, kind):
    folder = f"hf:{save_tower(tmp_path / kind, kind)}"
    spec, weights = stored(tmp_path, folder, image_size=SIDE, output="grid")
    assert cosine(*(features(Encoder.load(spec, weights, 8, where)) for where in (device, "cpu"))) > LEAST


@pytest.mark.parametrize("architecture", ["attentive", "lstm", "transformer"])
@pytest.mark.parametrize("decode", [{"method": "greedy"}, {"beam": 3, "n_best": 3}], ids=["greedy", "beam"])
def test_captions_of_a_bundle_equal_the_cpus(device, tmp_path, architecture, decode):
    decoder = make_decoder(make_tokenizer(), architecture=architecture)
    bundle = make_bundle(decoder=decoder).save(str(tmp_path / "bundle"))
    grids = list(np.random.default_rng(0).standard_normal((12, 2, 3, 5)).astype(np.float16))

    def captions(where: str) -> list[list[str]]:
        captioner = Captioner.load(
            bundle, DecodeOptions(**decode), from_features=True, batch_size=4, device=where
        )
        parts = [grids[start : start + 4] for start in range(0, 12, 4)]
        rows = [
            captioner.run([captioner.prepare(one) for one in part], ["x"] * 4)["captions"] for part in parts
        ]
        return [[caption["text"] for caption in row] for part in rows for row in part.to_pylist()]

    assert captions(device) == captions("cpu")


def test_a_captioner_of_transformers_says_what_the_cpu_says(device, tmp_path, photos):
    plan = plan_transformers(
        save_model(tmp_path / "blip"), DecodeOptions(beam=2), precision="fp32", device=device
    )
    other = plan_transformers(str(tmp_path / "blip"), DecodeOptions(beam=2), precision="fp32", device="cpu")
    ours, theirs = (computed(each.job(str(tmp_path / "m")), "captions", photos[:8]) for each in (plan, other))
    assert [row[0]["text"] for row in ours] == [row[0]["text"] for row in theirs]


def test_a_chat_model_answers_what_the_cpu_answers(device, tmp_path, photos):
    path, prompts = save_chat_model(tmp_path / "llava"), {"captions": {"text": "which colours"}}
    how = {"decode": DecodeOptions(method="greedy"), "batch_size": 4, "precision": "fp32"}
    plans = [plan_chat(path, prompts, device=where, **how) for where in (device, "cpu")]
    ours, theirs = (computed(plan.job(str(tmp_path / "m")), "captions", photos[:8]) for plan in plans)
    assert [row[0]["text"] for row in ours] == [row[0]["text"] for row in theirs]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_equal_the_cpus(device, tmp_path, photos, kind):
    folder = resolve_scorer(save_scorer(tmp_path / kind, kind)).folder

    def scores(where: str) -> np.ndarray:
        scorer = Scorer.load(folder, 4, where)
        batch = [(scorer.prepare(path.read_bytes()), ["a dog", "two cats"]) for path in photos[:4]]
        return np.array(scorer.run(batch, ["x"] * 4)["scores"])

    np.testing.assert_allclose(scores(device), scores("cpu"), atol=2e-3)


def test_all_devices_of_the_machine_give_the_rows_of_one(device, tmp_path, photos):
    one, every = ("cpu", "cpu,cpu") if device == "cpu" else ("cuda:0", "cuda")
    how = {"image_size": 64, "precision": "fp32", "batch_size": 4}
    plans = [plan_encoder("efficientnet_lite0", device=where, **how) for where in (one, every)]
    ours, theirs = (computed(plan.job(str(tmp_path / "m")), "grid", photos) for plan in plans)
    np.testing.assert_array_equal(np.stack(ours), np.stack(theirs))
