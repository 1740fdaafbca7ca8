"""Scored images/s of a CLIP model inside a worker, against a bare loop of transformers, in one run.

    python benchmarks/score.py IMAGES [--model FOLDER]

Both read the same files and score the same caption of each image at the same batch size in float32, and take turns: the
bare loop, the worker, the worker, the bare loop, and so on. The bare loop is what the documentation of transformers
shows: images and texts of a batch, the processor, the model. The worker's part is ``process_images`` with a captioner
that costs nothing. Without --model it is a random CLIP of the size of ViT-B/32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from in_worker import in_worker
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from captionbeam.capmodel.captioners.huggingface.scorer import Scorer, resolve_scorer
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.scoring_shards import ScoringProcessor
from captionbeam.schemas.formats import arrow
from tests.builders.model.scorers import save_scorer

CAPTION = "a dog runs on grass"


class Fixed:
    """A captioner that says the same of every image, at no cost."""

    fingerprint, schema, streams = "", pa.schema([arrow.captions_field()]), 1

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def prepare(self, item: bytes) -> None:
        """Needs nothing of the image."""

    def run(self, batch: Sequence[Any], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns the caption for each image."""
        captions = [[{"text": CAPTION, "logprob": -1.0, "tokens": []}]] * len(batch)
        return {"captions": pa.array(captions, self.schema.field(0).type)}


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    paths = sorted(path for path in Path(options.source).iterdir() if path.is_file())
    paths = (paths * (1 + options.images // len(paths)))[: options.images]
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or random_clip(Path(scratch, "model"))
        ways = {"bare": bare_loop(model, options.batch_size), "worker": worker(model, options.batch_size)}
        seconds: dict[str, list[float]] = {"bare": [], "worker": []}
        scores = {name: way(paths) for name, way in ways.items()}  # warm
        for turn in range(options.rounds):
            for name in ("bare", "worker") if turn % 2 == 0 else ("worker", "bare"):
                started = time.perf_counter()
                scores[name] = ways[name](paths)
                seconds[name].append(time.perf_counter() - started)
    pairs = zip(scores["bare"], scores["worker"], strict=True)
    figures = {
        "images": len(paths),
        "batch_size": options.batch_size,
        "largest_difference": max(abs(one - other) for one, other in pairs),
        **{
            f"{name}_images_per_second": [round(len(paths) / one, 2) for one in each]
            for name, each in seconds.items()
        },
        "ratio": round(sum(seconds["bare"]) / sum(seconds["worker"]), 3),
    }
    print(json.dumps(figures, indent=1))


def random_clip(folder: Path) -> str:
    """Saves a random CLIP of the size of ViT-B/32, with a tokenizer of letters, in ``folder``; returns its path."""
    path = save_scorer(folder, "clip")
    words = AutoTokenizer.from_pretrained(path)
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    CLIPModel(CLIPConfig(text_config={"vocab_size": len(words), **ids})).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return path


def bare_loop(path: str, size: int) -> Callable[[Sequence[Path]], list[float]]:
    """Returns what a script with transformers alone does."""
    model = CLIPModel.from_pretrained(path).eval()
    images, words = AutoImageProcessor.from_pretrained(path), AutoTokenizer.from_pretrained(path)

    def score(paths: Sequence[Path]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(paths), size):
            part = paths[start : start + size]
            pixels = images([Image.open(one).convert("RGB") for one in part], return_tensors="pt")
            texts = words([f"A photo depicts {CAPTION}"] * len(part), padding=True, return_tensors="pt")
            with torch.inference_mode():
                out = model(
                    input_ids=texts["input_ids"],
                    attention_mask=texts["attention_mask"],
                    pixel_values=pixels["pixel_values"],
                )
            cosine = (out.image_embeds * out.text_embeds).sum(-1)
            found += (2.5 * cosine.clamp(min=0)).tolist()
        return found

    return score


def worker(path: str, size: int) -> Callable[[Sequence[Path]], list[float]]:
    """Returns what a worker's process does with a shard, but for its files."""
    captioner = Fixed(size)
    scorer = Scorer.load(resolve_scorer(path).folder, size, "cpu")
    engine = Engine(ScoringProcessor(scorer, lambda: captioner, captioner.schema, lazily=True))
    return in_worker(engine, "captions", lambda captions: captions[0]["score"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a folder of images")
    parser.add_argument("--model", help="a folder that save_pretrained wrote (default: a random one)")
    parser.add_argument("--images", type=int, default=64, help="images of each turn (default 64)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each way (default 4)")
    return parser


if __name__ == "__main__":
    main()
