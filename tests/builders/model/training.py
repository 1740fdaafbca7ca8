"""Tiny token tables and feature stores to train on, and runs on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.runtime.distributed import Distributed
from captionbeam.capmodel.tokenizers import Tokenizer, WordTokenizer
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.progress import EventWriter
from captionbeam.capmodel.training.trainer import Stopped, Trainer
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats.tokens import RECORD, TABLE, TOKENIZER, TokenTable, table_bytes
from captionbeam.schemas.storage import files

Captions = Mapping[str, tuple[str, Sequence[str]]]
SMALL = {"embed_dim": 12, "hidden_dim": 16, "attention_dim": 8, "feature_dim": 10, "threads": 1}
TINY_TRANSFORMER = {"embed_dim": 12, "threads": 1}


def make_tokens(url: str, captions: Captions, max_length: int = 20) -> TokenTable:
    """A token table of ``{image id: (split, captions)}``, its words learned from all of them."""
    texts = [text for _, several in captions.values() for text in several]
    tokenizer = WordTokenizer.learn(Counter(text_words(texts)), min_count=1, max_length=max_length)
    data = table_bytes([_row(name, *captions[name], tokenizer) for name in captions], tokenizer.fingerprint)
    tokenizer.save(files.join(url, TOKENIZER))
    files.write_atomic(files.join(url, TABLE), data)
    record = {"version": 1, "sha256": sha256_bytes(data), "tokenizer": {"fingerprint": tokenizer.fingerprint}}
    files.write_atomic(files.join(url, RECORD), files.json_bytes(record))
    return TokenTable.open(url)


def text_words(texts: Sequence[str]) -> list[str]:
    """The words of all texts."""
    return [word for text in texts for word in text.lower().split()]


def _row(name: str, split: str, texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, object]:
    tokens = [tokenizer.encode(text) for text in texts]
    return {"image_id": name, "file_name": name, "coco_id": None, "split": split} | {
        "captions": list(texts),
        "tokens": tokens,
    }


def numbered_captions(train: int, val: int, each: int = 2) -> dict[str, tuple[str, list[str]]]:
    """``train`` + ``val`` images named by number, val ones among the others, ``each`` captions each."""
    every = max(1, (train + val) // val) if val else 0
    held = {number * every for number in range(val)}
    return {
        f"{number:04d}.jpg": ("val" if number in held else "train", _texts(number, each))
        for number in range(train + val)
    }


def _texts(number: int, each: int) -> list[str]:
    return [f"picture {number} seen {time} times" + " again" * (number % 5) for time in range(each)]


def make_data(
    folder: Path, train: int = 50, val: int = 6, shape: tuple[int, ...] = (2, 2, 3), each: int = 2
) -> dict[str, str]:
    """A features store and a token table for it: the options that name them."""
    from tests.builders.data.stores import make_features  # imports Beam, which tests/gpu do without

    captions = numbered_captions(train, val, each)
    make_features(str(folder / "features"), list(captions), shape=shape, shard_size=8)
    make_tokens(str(folder / "tokens"), captions)
    return {"features": str(folder / "features"), "tokens": str(folder / "tokens")}


def tiny_options(data: Mapping[str, str], folder: Path, **chosen: Any) -> TrainOptions:
    """Options of a run of a few steps; its bundle is ``folder/bundle``."""
    places = {name: str(folder / name) for name in ("checkpoints", "logs")}
    usual = TINY_TRANSFORMER if chosen.get("architecture") == "transformer" else SMALL
    sizes = {"epochs": 3, "batch_size": 8, "device": "cpu", **usual}
    return TrainOptions(
        **{**data, **places, "output": str(folder / "bundle"), "snapshot": 1, **sizes, **chosen}
    )


class StopAfter:
    """Asks a run to stop when it has been asked so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def train_alone(
    options: TrainOptions, wants_stop: Callable[[], bool] = lambda: False, device: str = "cpu"
) -> tuple[Trainer, list[dict[str, Any]]]:
    """Train in this process, one rank; the trainer, and the events that were told."""
    events: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    with EventWriter(options.logs, lambda event: events.append(dict(event))) as writer:
        dist = Distributed(0, 1, torch.device(device))
        trainer = Trainer(options, Data.open(options), dist, wants_stop, writer)
        try:
            trainer.run()
        except Stopped as stopped:
            events.append(
                {"event": "stopped", "epoch": stopped.position.epoch, "step": stopped.position.step}
            )
    return trainer, events
