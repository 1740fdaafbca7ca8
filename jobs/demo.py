"""Run all steps once, on a small set of drawn scenes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.ui.progress import clock
from captionbeam.jobs.ui.summary import print_table
from captionbeam.jobs.ui.terminal import is_speaking, say
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.machine import handling_signals
from captionbeam.schemas.options import NATURAL, POSITIVE, option, text
from captionbeam.schemas.storage import files

# arguments of each command; {0} is the demo's folder
COMMANDS = {
    "encode": "{0}/scenes/train.zip {0}/scenes/val.zip --output {0}/features --encoder efficientnet_lite0",
    "tokenize": "--train {0}/scenes/captions_train.json --val {0}/scenes/captions_val.json --output {0}/tokens",
    "train": (
        "--features {0}/features --tokens {0}/tokens --output {0}/bundle --epochs 12 --learning-rate 0.002 "
        "--dropout 0.2 --embed-dim 128 --hidden-dim 256 --attention-dim 128 --feature-dim 256"
    ),
    "caption": "{0}/scenes/test.zip --bundle {0}/bundle --output {0}/captions --beam 3 --keep-attention",
    "evaluate": (
        "--captions {0}/captions --references {0}/scenes/captions_test.json --per-image {0}/scores.jsonl"
    ),
    "report": "--captions {0}/captions --references {0}/scenes/captions_test.json --output {0}/report.html",
}


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Runs all steps on a small set of drawn scenes."""

    HELP = """\
  captionbeam demo --output demo

Draws scenes of coloured shapes with five captions each and runs encode, tokenize, train, caption, evaluate and report
on them: a few minutes on two cores, without any download. Each command is printed before it runs, ready to be pasted.
The summary says how many captions of held-out scenes have the right number, colour, shape and relation.
"""
    name = "demo"

    output: str = option(..., "a local folder for all files of the demo", text("FOLDER"))
    images: int = option(2400, "scenes for training; a few hundred are too few to learn from", POSITIVE)
    held_out: int = option(120, "scenes for validation, and as many for the test", POSITIVE)
    seed: int = option(0, "random seed of the scenes", NATURAL)
    storage_options: None = None

    def execute(self) -> Result:
        """Draws the scenes, runs every command, and prints how many captions are correct."""
        folder, start = self.output.rstrip("/"), time.monotonic()
        counts = {"train": self.images, "val": self.held_out, "test": self.held_out}
        took = {"draw": draw(folder, counts, self.seed)}
        for name, arguments in commands(folder).items():
            took[name] = run_job(name, arguments)
        found = summary(folder)
        parts = ", ".join(f"{name} {clock(seconds)}" for name, seconds in took.items())
        print_table("demo", {**found, "time": f"{clock(time.monotonic() - start)} ({parts})"})
        return Result(totals={**found, "seconds": took}, output=folder)


def draw(folder: str, counts: Mapping[str, int], seed: int) -> float:
    """Draws the scenes unless they exist; returns seconds. Raises RequestError if there are others."""
    from captionbeam.jobs.scenes.files import write_scenes

    start = time.monotonic()
    wanted = {"pictures": dict(counts), "seed": seed}
    record = files.join(folder, "demo.json")
    if files.exists(record):
        found = files.read_json(record)
        if found != wanted:
            raise RequestError(
                f"{folder!r} was made with --images {found['pictures']['train']} --held-out "
                f"{found['pictures']['test']} --seed {found['seed']}; expected the same options, or another --output"
            )
    else:
        say(f"drawing {sum(counts.values()):,} scenes into {folder}/scenes")
        write_scenes(files.join(folder, "scenes"), counts, seed)
        files.write_atomic(record, files.json_bytes(wanted))
    return time.monotonic() - start


def commands(folder: str) -> dict[str, list[str]]:
    """Returns the demo's commands, in order: name -> arguments."""
    return {name: [part.format(folder) for part in text.split()] for name, text in COMMANDS.items()}


def run_job(name: str, arguments: Sequence[str]) -> float:
    """Prints one command and runs it in a process of its own; returns seconds. Raises SystemicError if it fails."""
    say(f"\n$ {shlex.join(['captionbeam', name, *arguments])}")
    start = time.monotonic()
    command = [sys.executable, "-m", "captionbeam", name, *arguments]
    output = None if is_speaking() else subprocess.DEVNULL
    # a signal stops the command, and the demo ends after it
    with (
        subprocess.Popen(command, stdout=output, stderr=output) as child,
        handling_signals(lambda number, _: child.send_signal(number)),
    ):
        status = child.wait()
    if status:
        raise SystemicError(f"{name} ended with status {status}; the same demo command resumes")
    return time.monotonic() - start


def summary(folder: str) -> dict[str, Any]:
    """Returns the results: correct captions, CIDEr, some captions, the report's location."""
    from captionbeam.jobs.scenes.files import count_right

    held_out = files.read_json(files.join(folder, "scenes", "captions_test.json"))
    lines = files.read_bytes(files.join(folder, "scores.jsonl")).splitlines()
    scored = [json.loads(line) for line in lines]
    captions = {row["image_id"]: row["caption"] for row in scored}
    right, images = count_right(captions, held_out)
    examples = [
        captions[image["file_name"]] for image in held_out["images"] if image["file_name"] in captions
    ]
    return {
        "held-out captions": f"{right} of {images} right in number, colour, shape and relation ({right / images:.0%})",
        "CIDEr": f"{sum(row['CIDEr'] for row in scored) / max(len(scored), 1):.3f}",
        "for example": "\n".join(examples[:5]),
        "report": files.join(folder, "report.html"),
    }
