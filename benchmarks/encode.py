"""Images/s of the real encode job against the bare model's forward pass, in one run.

    python benchmarks/encode.py IMAGES --encoder inception_v3 --weights FILE --preprocess tf

The bare loop runs the same model on the same number of prepared batches, same batch size and precision, before and
after the job, so that a machine that drifts does not favour either. The job runs in a process of its own, as a user
runs it; its rate is the one in the run's record: listing, planning, reading, decoding, model, compression, commits
and publishing included, only the interpreter's start not. Peak resident memory is taken for a quarter of the images
and for all of them.

    python benchmarks/encode.py --pictures PHOTOGRAPHS --images 96

compares ``--decode exact`` with ``--decode scaled`` instead, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from job_rates import job_rate

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders import Encoder


def main() -> None:
    """Print one JSON object."""
    options, rest = _parser().parse_known_args()
    if options.pictures:
        print(json.dumps(both_ways(options, rest), indent=1))
        return
    bare = [bare_rates(options)]
    command = ["encode", options.source, *_encoder_arguments(options), *rest]
    few, few_rss = job_rate([*command, "--limit", str(options.images // 4)], options.scratch)
    many, many_rss = job_rate([*command, "--limit", str(options.images)], options.scratch)
    bare.append(bare_rates(options))
    plain, streams = (statistics.mean(rates) for rates in zip(*bare, strict=True))
    figures = {
        "images": options.images,
        "bare_images_per_second": {"torch": round(plain, 2), "side by side": round(streams, 2)},
        "job_images_per_second": round(many, 2),
        "ratio": {"torch": round(many / plain, 3), "side by side": round(many / streams, 3)},
        "quarter_images_per_second": round(few, 2),
        "peak_rss_mb": {"quarter": few_rss >> 20, "all": many_rss >> 20},
    }
    print(json.dumps(figures, indent=1))


def both_ways(options: argparse.Namespace, rest: list[str]) -> dict[str, object]:
    """Images/s and peak resident bytes of the job with each value of --decode, in the order A B B A."""
    command = [
        "encode",
        options.pictures,
        *_encoder_arguments(options),
        *rest,
        "--limit",
        str(options.images),
    ]
    found: dict[str, list[tuple[float, int]]] = {"exact": [], "scaled": []}
    for name in ("exact", "scaled", "scaled", "exact"):
        found[name].append(job_rate([*command, "--decode", name], options.scratch))
    return {
        name: {
            "images_per_second": [round(rate, 2) for rate, _ in turns],
            "peak_rss_mb": max(rss for _, rss in turns) >> 20,
        }
        for name, turns in found.items()
    }


def bare_rates(options: argparse.Namespace) -> tuple[float, float]:
    """Images/s of the model alone, in a process of its own, on batches of noise, already prepared.

    First as torch runs it (one batch at a time, on torch's threads), then as a job's encoder does (batches side by
    side, a thread each, with freed memory kept, which is faster).
    """
    command = [sys.executable, __file__, options.source, "--bare", *_encoder_arguments(options)]
    words = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(words[-2]), float(words[-1])


def run_bare(options: argparse.Namespace) -> None:
    """What ``bare_rates`` starts."""
    from captionbeam.capmodel.encoders.encoder import Encoder, resolve_encoder, store_weights
    from captionbeam.capmodel.runtime.allocator import keep_freed_memory
    from captionbeam.capmodel.runtime.streams import Streams

    spec, state = resolve_encoder(
        options.encoder,
        options.weights,
        preprocess=options.preprocess,
        precision=options.precision,
        pool_padding=not options.exclude_pool_padding,
    )
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder.load(spec, store_weights(state, folder), options.batch_size)
        forward, streams = _forward(encoder), Streams(encoder.batch_size, encoder.device)
        alone = _rate(forward, encoder.batch_size, options.seconds)
        keep_freed_memory()
        with ThreadPoolExecutor(streams.count) as callers:
            rates = [
                callers.submit(_rate, lambda: streams.run(forward), encoder.batch_size, options.seconds)
                for _ in range(streams.count)
            ]
            print(alone, sum(rate.result() for rate in rates))


def _forward(encoder: Encoder) -> Callable[[], object]:
    """Returns a function that runs one forward pass of a full batch of scaled noise, on the calling thread."""
    import torch

    from captionbeam.capmodel.runtime.device import DTYPES

    size = encoder.spec.preprocess.size
    pixels = torch.randint(0, 256, (encoder.batch_size, 3, size, size), dtype=torch.uint8)
    batch = pixels.to(encoder.device).contiguous(memory_format=torch.channels_last)
    scaled = encoder.spec.preprocess.scale(batch).to(DTYPES[encoder.spec.precision])

    def forward() -> None:
        with torch.inference_mode():
            encoder._network(scaled).sum().item()

    return forward


def _rate(forward: Callable[[], object], batch_size: int, seconds: float) -> float:
    for _ in range(2):
        forward()
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        forward()
        rates.append(batch_size / (time.perf_counter() - start))
    return statistics.median(rates)


def _encoder_arguments(options: argparse.Namespace) -> list[str]:
    pairs = {
        "--encoder": options.encoder,
        "--weights": options.weights,
        "--preprocess": options.preprocess,
        "--precision": options.precision,
        "--batch-size": options.batch_size,
    }
    flags = ["--exclude-pool-padding"] if options.exclude_pool_padding else []
    return flags + [str(part) for name, value in pairs.items() if value is not None for part in (name, value)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", help="images: a folder, a zip, ...")
    parser.add_argument("--pictures", metavar="SOURCE", help="images to encode with each value of --decode")
    parser.add_argument("--images", type=int, default=1024, help="how many of them (default 1024)")
    parser.add_argument("--encoder", default="inception_v3")
    parser.add_argument("--weights")
    parser.add_argument("--preprocess")
    parser.add_argument("--exclude-pool-padding", action="store_true")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seconds", type=float, default=20, help="how long each bare loop runs (default 20)")
    parser.add_argument("--scratch", help="folder for the stores that the job writes")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    known = _parser().parse_known_args()[0]
    if known.bare:
        run_bare(known)
    else:
        main()
