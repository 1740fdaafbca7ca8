"""Images/s of a worker's process against the bare model, for the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.in_worker import in_worker
from captionbeam.capmodel.captioners.captioner import Captioner
from captionbeam.capmodel.encoders.encoder import Encoder
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.runtime.device import DTYPES
from captionbeam.capmodel.tokenizers import WordTokenizer
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.schemas.machine import cores
from tests.builders.model.encoding import stored
from tests.builders.model.models import make_bundle, make_decoder
from tests.builders.model.networks import random_network
from tests.gpu.conftest import note

IMAGES = {"cuda": 4096, "cpu": 16}
BATCH = {"cuda": 128, "cpu": 8}
WORDS = 10_000
DECODERS: dict[str, dict[str, int]] = {
    "attentive": {"embed_dim": 512, "hidden_dim": 512, "attention_dim": 512, "feature_dim": 512},
    "lstm": {"embed_dim": 512, "hidden_dim": 512},
    "transformer": {"embed_dim": 512, "heads": 8, "layers": 3, "feedforward_dim": 2048},
}


def rate(work: Callable[[], object], images: int, turns: int = 3) -> float:
    """The median images/s of ``turns``, after one to warm up."""
    work()
    rates = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        rates.append(images / (time.perf_counter() - start))
    return statistics.median(rates)


@pytest.fixture(scope="session")
def files(device, photos, tmp_path_factory):
    """As many photographs as are timed, no two of which are the same file."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{number}.jpg" for number in range(IMAGES[device])]
    for number, path in enumerate(paths):
        path.write_bytes(photos[number % len(photos)].read_bytes() + number.to_bytes(4, "big"))
    return paths


def bare(encoder: Encoder, images: int) -> Callable[[], object]:
    """The forward passes alone, on prepared batches that are on the device already."""
    size, dtype = encoder.spec.preprocess.size, DTYPES[encoder.spec.precision]
    pixels = torch.randint(
        0, 256, (encoder.batch_size, 3, size, size), dtype=torch.uint8, device=encoder.device
    )
    scaled = encoder.spec.preprocess.scale(pixels.contiguous(memory_format=torch.channels_last)).to(dtype)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(images // encoder.batch_size):
            out = encoder._network(scaled)
        out.sum().item()

    return forward


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
def test_encoding_against_the_bare_model(device, tmp_path, files, name, precision):
    weights = None
    if name != "efficientnet_lite0":
        torch.save(random_network(name).state_dict(), weights := str(tmp_path / "weights.pth"))
    spec, url = stored(tmp_path, name, weights, image_size=224, precision=precision, output="pooled")
    encoder = Encoder.load(spec, url, BATCH[device], device)
    model = rate(bare(encoder, len(files)), len(files))
    worker = in_worker(Engine(encoder, cores()), "pooled", lambda row: None)
    job = rate(lambda: worker(files), len(files), turns=1)
    note(f"encode, {name}, {precision}, images/s", f"{job:.0f}", f"bare model {model:.0f}")


def test_decoding_alone(device, tmp_path, files):
    """What a GPU may wait for: files read and decoded on all cores."""
    encoder = Encoder.load(*stored(tmp_path, image_size=224), BATCH[device], device)
    with ThreadPoolExecutor(cores()) as threads:
        found = rate(
            lambda: sum(1 for _ in threads.map(lambda path: encoder.prepare(path.read_bytes()), files)),
            len(files),
            turns=1,
        )
    note(f"decode alone, {cores()} cores, images/s", f"{found:.0f}")


def bundle_of(folder: Path, shape: tuple[int, ...], architecture: str, encoder: Any = None) -> str:
    """A bundle with a decoder of a usual size."""
    tokenizer = WordTokenizer.learn({f"word{n}": 1 for n in range(WORDS)}, min_count=1, max_length=16)
    decoder = make_decoder(tokenizer, shape, architecture=architecture, **DECODERS[architecture])
    return make_bundle(encoder, decoder=decoder, tokenizer=tokenizer).save(str(folder / "bundle"))


@pytest.mark.parametrize("architecture", DECODERS)
def test_captioning_features(device, tmp_path, architecture):
    captioner = Captioner.load(
        bundle_of(tmp_path, (7, 7, 1280), architecture),
        DecodeOptions(beam=3),
        from_features=True,
        batch_size=BATCH[device],
        device=device,
    )
    grids = [captioner.prepare(torch.randn(7, 7, 1280).half().numpy()) for _ in range(BATCH[device])]
    found = rate(lambda: captioner.run(grids, ["x"] * len(grids)), len(grids))
    note(f"caption from features, {architecture}, beam 3, images/s", f"{found:.0f}")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captioning_photographs_against_the_bare_model(device, tmp_path, files, precision):
    spec, weights = stored(tmp_path, image_size=224, precision=precision)
    bundle = bundle_of(tmp_path, spec.shape, "attentive", (spec.to_dict(), weights))
    captioner = Captioner.load(bundle, DecodeOptions(beam=3), batch_size=BATCH[device], device=device)
    prepared = [captioner.prepare(path.read_bytes()) for path in files[: captioner.batch_size]]
    model = rate(lambda: captioner.run(prepared, ["x"] * len(prepared)), len(prepared))
    worker = in_worker(Engine(captioner, cores()), "captions", lambda row: None)
    job = rate(lambda: worker(files), len(files), turns=1)
    note(f"caption, attentive, beam 3, {precision}, images/s", f"{job:.0f}", f"bare model {model:.0f}")
