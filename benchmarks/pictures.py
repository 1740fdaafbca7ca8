"""Milliseconds of a core to decode, to resize and to encode a photograph, by size and format.

    python benchmarks/pictures.py PHOTOGRAPHS --encoder efficientnet_lite0 --sizes 0.3,12 --formats JPEG,HEIF

Photographs of PHOTOGRAPHS are enlarged or reduced to each size, with noise like that of a camera, since an enlarged
picture has no detail and is decoded faster. ``exact`` and ``scaled`` are --decode. ``cosine`` compares the pooled
features of both: mean and worst.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import torch
from PIL import Image
from torch import Tensor

from captionbeam.capmodel.encoders.encoder import Encoder, resolve_encoder, store_weights
from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.encoders.preprocess import DECODES, Preprocess

NOISE = 4  # levels, standard deviation


def main() -> None:
    """Print one JSON object for each size and format."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS = None
    pillow_heif.register_heif_opener()
    encoder = _encoder(options)
    paths = sorted(path for path in Path(options.photographs).iterdir() if path.is_file())[: options.images]
    for size in options.sizes.split(","):
        for kind in options.formats.split(","):
            files = (_file(path, float(size), kind, number) for number, path in enumerate(paths))
            print(
                json.dumps({"megapixels": float(size), "format": kind, **_measured(files, encoder)}),
                flush=True,
            )


def _encoder(options: argparse.Namespace) -> Encoder:
    spec, state = resolve_encoder(
        options.encoder, options.weights, output="pooled", image_size=options.image_size
    )
    return Encoder.load(spec, store_weights(state, options.models), options.batch_size, "cpu")


def _file(path: Path, megapixels: float, kind: str, seed: int) -> bytes:
    picture = Image.open(path).convert("RGB")
    scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
    size = round(picture.width * scale), round(picture.height * scale)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(seed).normal(0, NOISE, pixels.shape[:2]).astype(np.int16)
    noisy = Image.fromarray((pixels + noise[..., None]).clip(0, 255).astype(np.uint8))
    stream = io.BytesIO()
    noisy.save(stream, kind, **({} if kind == "PNG" else {"quality": 92}))
    return stream.getvalue()


def _measured(files: Any, encoder: Encoder) -> dict[str, Any]:
    times: dict[str, list[float]] = {}
    rows: dict[str, list[Tensor]] = {name: [] for name in DECODES}
    for data in files:
        for name in DECODES:
            preprocess = replace(encoder.spec.preprocess, decode=name)
            rows[name].append(_prepared(data, preprocess, times, name))
    start = time.process_time()
    features = {name: _features(encoder, prepared) for name, prepared in rows.items()}
    times["network"] = [(time.process_time() - start) / sum(map(len, rows.values()))]
    cosines = torch.cosine_similarity(features["exact"], features["scaled"])
    figures = {name: round(1000 * float(np.median(found)), 1) for name, found in times.items()}
    return {
        "images": len(cosines),
        "milliseconds": figures,
        "cosine": {"mean": round(float(cosines.mean()), 5), "worst": round(float(cosines.min()), 5)},
    }


def _prepared(data: bytes, preprocess: Preprocess, times: dict[str, list[float]], name: str) -> Tensor:
    side = 2 * preprocess.resize if name == "scaled" else None
    seconds, image = _timed(lambda: decode_image(data, side=side))
    times.setdefault(f"{name}: decode", []).append(seconds)
    seconds, pixels = _timed(lambda: preprocess.pixels(image))
    times.setdefault(f"{name}: resize", []).append(seconds)
    return pixels


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def _features(encoder: Encoder, prepared: Sequence[Tensor]) -> Tensor:
    size = encoder.batch_size
    batches = [prepared[start : start + size] for start in range(0, len(prepared), size)]
    rows = [encoder.run(batch, ["" for _ in batch])["pooled"] for batch in batches]
    return torch.from_numpy(np.concatenate(rows)).float()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", help="a folder")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--sizes", default="0.05,0.3,2,12,48", help="millions of pixels")
    parser.add_argument("--formats", default="JPEG,PNG,WEBP,HEIF")
    parser.add_argument("--models", default="/tmp", help="where the weights are written")
    return parser


if __name__ == "__main__":
    main()
