"""Answers/s of a chat model of transformers inside a worker, against a bare loop of transformers, in one run.

    python benchmarks/chat.py IMAGES [--model FOLDER]

Both read the same files, ask the same prompt at the same batch size and precision, and take turns: the bare loop, the
worker, the worker, the bare loop, and so on. The bare loop is what the documentation of transformers shows: images of
a batch, the processor, ``generate``, ``batch_decode``. The worker's part is ``process_images``: reading, preparing in
threads, batches of one shape, answers as Arrow columns. Without --model it is a random LLaVA of 35 million parameters,
whose answers are about 10 tokens long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from in_worker import in_worker
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.pipelines.workers.engine import load_engine
from captionbeam.pipelines.workers.processors import plan_chat
from captionbeam.schemas.fingerprint import UNNAMED
from tests.builders.model.chat_models import save_chat_model

SIZES = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1024}


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    paths = sorted(path for path in Path(options.source).iterdir() if path.is_file())
    paths = (paths * (1 + options.images // len(paths)))[: options.images]
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or save_chat_model(
            Path(scratch, "model"), sizes=SIZES, side=224, patch=16, scale=0.05
        )
        ways = {"bare": bare_loop(model, options), "worker": worker(model, scratch, options)}
        seconds: dict[str, list[float]] = {"bare": [], "worker": []}
        answers = {name: way(paths) for name, way in ways.items()}  # warm
        for turn in range(options.rounds):
            for name in ("bare", "worker") if turn % 2 == 0 else ("worker", "bare"):
                started = time.perf_counter()
                answers[name] = ways[name](paths)
                seconds[name].append(time.perf_counter() - started)
    rates = {name: [len(paths) / one for one in each] for name, each in seconds.items()}
    ratios = [own / bare for own, bare in zip(rates["worker"], rates["bare"], strict=True)]
    figures = {
        "images": len(paths),
        "batch_size": options.batch_size,
        "same_answers": answers["bare"] == answers["worker"],
        **{f"{name}_images_per_second": [round(one, 2) for one in each] for name, each in rates.items()},
        "ratio": round(sum(seconds["bare"]) / sum(seconds["worker"]), 3),
        "median_ratio": round(statistics.median(ratios), 3),
    }
    print(json.dumps(figures, indent=1))


def bare_loop(path: str, options: argparse.Namespace) -> Callable[[Sequence[Path]], list[str]]:
    """Returns what a script with transformers alone does."""
    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    processor.tokenizer.padding_side = "left"

    def answer(paths: Sequence[Path]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(paths), options.batch_size):
            images = [Image.open(one).convert("RGB") for one in paths[start : start + options.batch_size]]
            asked = [[{"role": "user", "content": _content(one, options.prompt)}] for one in images]
            given = processor.apply_chat_template(
                asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
                processor_kwargs={"padding": True},
            )  # fmt: skip
            with torch.no_grad():
                ids = model.generate(**given, do_sample=False, max_new_tokens=options.max_new_tokens)
            texts = processor.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            found += [text.strip() for text in texts]
        return found

    return answer


def _content(image: Image.Image, text: str) -> list[dict[str, Any]]:
    return [{"type": "image", "image": image}, {"type": "text", "text": text}]


def worker(path: str, scratch: str, options: argparse.Namespace) -> Callable[[Sequence[Path]], list[str]]:
    """Returns what a worker's process does with a shard, but for its files."""
    plan = plan_chat(
        path,
        {UNNAMED: {"text": options.prompt}},
        DecodeOptions(method="greedy"),
        batch_size=options.batch_size,
        device="cpu",
        max_new_tokens=options.max_new_tokens,
    )
    engine = load_engine(plan.job(f"{scratch}/models"))
    return in_worker(engine, UNNAMED, lambda answers: answers[0]["text"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a folder of images")
    parser.add_argument("--model", help="a folder that save_pretrained wrote (default: a random one)")
    parser.add_argument("--prompt", default="describe the picture")
    parser.add_argument("--images", type=int, default=32, help="images of each turn (default 32)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each way (default 4)")
    return parser


if __name__ == "__main__":
    main()
