"""What each option of training is worth: a table of small runs on a part of a data set, on its val split.

    python benchmarks/options.py --features features --train captions_train.json --val captions_val.json \\
        --work options --images 1500

Each row is the base setting with a few flags changed, trained by ``captionbeam train`` on the first ``--images``
images of the train captions, and scored on all of val as the run itself does (CIDEr of the best epoch). The base
runs once for each of ``--seeds``: their spread says which differences mean anything. A row that names an architecture
or a preset brings its own sizes, and the base's are left out. A run that is stopped goes on,
one that is there is not done again, and the table so far is printed at the end: call it as often as you like.
``--also 'NAME=FLAGS'`` adds a row.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIZES = "--embed-dim 128 --hidden-dim 256 --attention-dim 64 --feature-dim 128"
BASE = "--batch-size 16 --epochs 6 --learning-rate 3e-3"
LSTM = "--architecture lstm --embed-dim 128 --hidden-dim 256"
TRANSFORMER = "--architecture transformer --embed-dim 256 --layers 2 --dropout 0.1 --learning-rate 1e-3"
REWARDED = "--self-critical-epochs 2 --self-critical-temperature 0.5 --self-critical-learning-rate 1e-4"
ROWS = {
    "attention: dot": "--attention dot",
    "attention: multi-head": "--attention multi-head",
    "attention: sparsemax": "--attention sparsemax",
    "attention: hard": "--attention hard",
    "gate: scalar": "--gate scalar",
    "gate: none": "--gate none",
    "start from the mean": "--initial-state mean",
    "doubly stochastic 1": "--doubly-stochastic 1",
    "lstm, the image its first input": LSTM,
    "lstm, started by the image": f"{LSTM} --image-as start-state",
    "lstm, its cell started through 64": f"{LSTM} --image-as start-cell --image-bottleneck 64",
    "transformer of 2 layers": TRANSFORMER,
    "output: two-stage, 64": "--output-layer two-stage --output-bottleneck 64",
    "output: adaptive": "--output-layer adaptive",
    "embeddings not tied": "--no-tie-embeddings",
    "dropout 0.3": "--dropout 0.3",
    "dropout 0": "--dropout 0",
    "grid dropout 0.3": "--grid-dropout 0.3",
    "grid dropout 0": "--grid-dropout 0",
    "consensus 1": "--consensus 1",
    "label smoothing 0.1": "--label-smoothing 0.1",
    "weight decay 0.05": "--weight-decay 0.05",
    "EMA 0.99": "--ema 0.99",
    "constant rate": "--schedule constant",
    "batches grow by 2 every 2 epochs": "--schedule constant --batch-growth 2 --batch-growth-epochs 2 --batch-max 64",
    "learning rate 1e-3": "--learning-rate 1e-3",
    "batches of 32": "--batch-size 32",
    "one caption an image": "--captions-per-image 1",
    "buckets by length": "--bucket-by-length",
    "two self-critical epochs more": REWARDED,
    "the same, against greedy captions": f"{REWARDED} --self-critical-baseline greedy",
    "two self-critical epochs, the grid's dropout kept": f"{REWARDED} --self-critical-grid-dropout",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left to do, then print the table."""
    options = parse(arguments)
    work = Path(options.work)
    tokens = part_of_tokens(options, work)
    rows = {**ROWS, **dict(row.split("=", 1) for row in options.also)}
    wanted = {name: flags for name, flags in rows.items() if not options.only or name in options.only}
    runs = [("base", "", seed) for seed in range(options.seeds)] + [
        (name, flags, 0) for name, flags in wanted.items()
    ]
    for name, flags, seed in [] if options.table_only else runs:
        own = any(flag in flags.split() for flag in ("--architecture", "--preset", "--recipe"))
        chosen = f"{'' if own else options.sizes} {options.base} {flags} --seed {seed}"
        train(options, tokens, bundle_of(work, name, seed), chosen)
    print(table(work, rows, options.seeds))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--features", required=True, metavar="STORE", help="a features store of both splits")
    add("--train", required=True, metavar="JSON", help="captions of the train split, COCO's format")
    add("--val", required=True, metavar="JSON", help="captions of the val split")
    add("--work", required=True, metavar="DIR", help="bundles, checkpoints and tokens; kept")
    add("--images", type=int, default=1500, metavar="N", help="of the train split (default 1500)")
    add("--seeds", type=int, default=3, metavar="N", help="runs of the base setting (default 3)")
    add("--threads", type=int, default=2, metavar="N", help="of each run (default 2)")
    add("--base", default=BASE, metavar="FLAGS", help=f"how the base is trained (default {BASE})")
    add("--sizes", default=SIZES, metavar="FLAGS", help=f"of the base's decoder (default {SIZES})")
    add("--only", action="append", default=[], metavar="NAME", help="this row alone; may be repeated")
    add("--also", action="append", default=[], metavar="NAME=FLAGS", help="one more row; may be repeated")
    add("--table-only", action="store_true", help="train nothing, print what is there")
    return parser.parse_args(arguments)


def part_of_tokens(options: argparse.Namespace, work: Path) -> Path:
    """The token table of the part, words seen five times or more; made where it is not there."""
    tokens = work / f"tokens-{options.images}"
    if not (tokens / "record.json").exists():
        part = work / f"train-{options.images}.json"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(first_images(json.loads(Path(options.train).read_text()), options.images)))
        words = ["--kind", "words", "--output", str(tokens)]
        captionbeam("tokenize", "--train", str(part), "--val", options.val, *words)
    return tokens


def first_images(coco: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The first images of a COCO caption file, with their captions."""
    images = coco["images"][:number]
    ids = {image["id"] for image in images}
    return {
        **coco,
        "images": images,
        "annotations": [one for one in coco["annotations"] if one["image_id"] in ids],
    }


def train(options: argparse.Namespace, tokens: Path, bundle: Path, flags: str) -> None:
    """One run; nothing where it is there. A row that is refused or fails says so, and the others go on."""
    places = ["--features", options.features, "--tokens", str(tokens), "--output", str(bundle)]
    chosen = ["--max-missing", "1", "--threads", str(options.threads), *shlex.split(flags)]
    print(f"{bundle.name}: {flags}", flush=True)
    try:
        captionbeam("train", *places, *chosen)
    except subprocess.CalledProcessError as err:
        print(f"{bundle.name} ended with status {err.returncode}", flush=True)


def captionbeam(*words: str) -> None:
    """The command line of this environment."""
    subprocess.run([sys.executable, "-m", "captionbeam", *words], check=True)


def bundle_of(work: Path, name: str, seed: int) -> Path:
    """Where a run's bundle is."""
    plain = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in name)
    return work / f"{plain}-{seed}"


def best(bundle: Path) -> dict[str, Any] | None:
    """The epoch that the bundle was saved of; None where it is not there."""
    file = bundle / "history.json"
    if not file.exists():
        return None
    history = json.loads(file.read_text())
    return max(history, key=lambda epoch: epoch["CIDEr"]) | {
        "all_seconds": sum(e["seconds"] for e in history)
    }


def table(work: Path, rows: Mapping[str, str], seeds: int) -> str:
    """All rows that are there, as Markdown."""
    base = [found for seed in range(seeds) if (found := best(bundle_of(work, "base", seed)))]
    if not base:
        return "no run of the base setting is there yet"
    scores = [found["CIDEr"] for found in base]
    mean = statistics.mean(scores)
    spread = f" (from {min(scores):.3f} to {max(scores):.3f}, {len(scores)} seeds)" if len(scores) > 1 else ""
    lines = [
        "| option | val CIDEr | against the base | val loss | best epoch | training |",
        "|---|---|---|---|---|---|",
    ]
    lines.append(row("base", {**base[0], "CIDEr": mean}, "", spread))
    for name in rows:
        if found := best(bundle_of(work, name, 0)):
            lines.append(row(name, found, f"{found['CIDEr'] - mean:+.3f}"))
    return "\n".join(lines)


def row(name: str, found: Mapping[str, Any], against: str, spread: str = "") -> str:
    """One line of the table."""
    scores = [f"{found['CIDEr']:.3f}{spread}", against, f"{found['val_loss']:.3f}"]
    cells = [name, *scores, str(found["epoch"]), f"{found['all_seconds']:.0f} s"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
