"""Options of ``captionbeam train`` for all targets, in groups.

Each is the field of TrainOptions with the same name, which has the default.
"""

from __future__ import annotations

import argparse
from typing import Any

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.jobs.options.decoders import DECODER_FLAGS, EMBEDDING_FLAGS
from captionbeam.jobs.options.self_critical import SELF_CRITICAL_FLAGS
from captionbeam.jobs.options.shared import all_or_number, natural, positive, share

GROUPS: dict[str, dict[str, tuple[Any, str, str]]] = {
    "training": {
        "epochs": (
            natural,
            "N",
            "passes over the train split with the captions that people wrote; 0 with --init and --self-critical-epochs",
        ),
        "steps_per_epoch": (positive, "N", "an epoch is so many random steps (default: a pass)"),
        "batch_size": (positive, "N", "images a forward pass on each worker"),
        "accumulate": (positive, "N", "forward passes a step: as N times the batch, in the memory of one"),
        "batch_growth": (float, "FACTOR", "the batch grows by this, instead of a rate that falls"),
        "batch_growth_epochs": (positive, "N", "after every so many epochs"),
        "batch_max": (positive, "N", "up to so many images a forward pass"),
        "captions_per_image": (
            all_or_number,
            "all|N",
            "so many captions of an image, drawn anew each time (default all)",
        ),
        "bucket_by_length": (bool, "", "steps of captions about as long, so of less padding"),
        "learning_rate": (float, "RATE", "Adam's, at its highest"),
        "warmup": (share, "SHARE", "of all steps, in which the learning rate rises"),
        "schedule": (
            str,
            "NAME",
            "after the warmup: cosine, down half a cosine to nothing (the default), or constant",
        ),
        "weight_decay": (float, "RATE", "of tables and matrices, a step, times the learning rate (AdamW)"),
        "label_smoothing": (share, "SHARE", "of each target spread over all words"),
        "consensus": (
            float,
            "POWER",
            "captions weigh in cross-entropy by their CIDEr-D against the image's other captions, to this power (1 for "
            "one)",
        ),
        "clip": (float, "NORM", "largest norm of the gradients"),
        "ema": (share, "SHARE", "that stays of the averaged weights a step (0.999 for one); 0: no average"),
        "patience": (positive, "N", "end after so many epochs without a better CIDEr (default: never)"),
        "seed": (natural, "N", "of the first weights, the order of images and dropout"),
        "mix": (positive, "N", "row groups (of about 8 MiB) that images are mixed from, over all workers"),
        "val_images": (positive, "N", "images of the val split that each epoch is scored on"),
        "val_beam": (positive, "N", "beams of the captions that are scored; 1 is greedy"),
        "val_length_penalty": (
            float,
            "A",
            "of their ranking, as captionbeam caption's --length-penalty: log-probability / tokens^A",
        ),
        "max_missing": (share, "SHARE", "of the images that may lack features or captions"),
    },
    "decoder": {**DECODER_FLAGS, **EMBEDDING_FLAGS},
    "self-critical training": SELF_CRITICAL_FLAGS,
    "processes": {
        "threads": (positive, "N", "of each worker (default: the cores, shared out)"),
        "cache": (
            str,
            "DIR",
            "keep decoded grids in this local folder (256 KiB an image of 8 x 8 x 2048): epochs after the first, and "
            "later runs on the same snapshot, read them from there",
        ),
        "precision": (str, "NAME", "auto, fp32 or bf16; auto is bf16 where the first worker computes in it"),
        "device": (str, "NAME", "auto, cpu or cuda; one GPU a worker"),
        "checkpoint_minutes": (float, "MINUTES", "at most so long between checkpoints"),
    },
}

SETTLED = ("embed_dim",)
"""Left open by who does not say them: --embeddings decides, and TrainOptions' default holds without (train_request)."""


def add_groups(parser: argparse.ArgumentParser) -> None:
    """Adds every option of GROUPS, each group with its title."""
    for title, group in GROUPS.items():
        add_one = parser.add_argument_group(title).add_argument
        for name, (kind, metavar, text) in group.items():
            usual = getattr(TrainOptions, name)
            default = None if name in SETTLED else usual
            flag = f"--{name.replace('_', '-')}"
            if kind is bool:
                add_one(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
                continue
            said = text if usual is None or kind is str else f"{text} (default {usual:g})"
            add_one(flag, type=kind, default=default, metavar=metavar, help=said)


def nothing_to_do(output: str) -> str:
    """The message if the bundle already exists."""
    return f"nothing to do: {output} holds the finished bundle (--restart trains anew)"
