"""Images/s of a worker's process against the bare model, for the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.in_worker import in_worker
from captionbeam.capmodel.captioners.captioner import Captioner
from captionbeam.capmodel.encoders.encoder import Encoder
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.runtime.device import DTYPES
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.schemas.machine import cores
from tests.builders.model.encoding import stored
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.model.networks import random_network
from tests.gpu.conftest import note

IMAGES = {"cuda": 4096, "cpu": 48}
BATCH = {"cuda": 128, "cpu": 8}


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


@pytest.mark.parametrize("architecture", ["attentive", "transformer"])
def test_captioning_by_beam_search(device, tmp_path, architecture):
    sizes = {"attentive": {}, "transformer": {"embed_dim": 512, "heads": 8, "layers": 3}}[architecture]
    tokenizer = make_tokenizer(max_length=16)
    decoder = make_decoder(tokenizer, (7, 7, 1280), architecture=architecture, **sizes)
    bundle = make_bundle(decoder=decoder, tokenizer=tokenizer).save(str(tmp_path / "bundle"))
    captioner = Captioner.load(
        bundle, DecodeOptions(beam=3), from_features=True, batch_size=BATCH[device], device=device
    )
    grids = [captioner.prepare(torch.randn(7, 7, 1280).half().numpy()) for _ in range(BATCH[device])]
    found = rate(lambda: captioner.run(grids, ["x"] * len(grids)), len(grids))
    note(f"caption from features, {architecture}, beam 3, images/s", f"{found:.0f}")
