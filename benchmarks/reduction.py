"""What reduced and rounded features cost: bytes an image, how far off they are, and CIDEr of the same small training.

    python benchmarks/reduction.py --features features --tokens tokens --ids train_ids.txt --work reduced

Components are fitted to the images of ``--ids``; each form is a store of its own, made by ``captionbeam encode
--features``; the same small run is trained on each, once a seed. What is there is not done again, so that a stopped
command goes on; the table so far is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from captionbeam.pipelines.maintenance.history import rounding_of
from captionbeam.schemas import Store

MOST = 512
FORMS = {
    "float16": "",
    "int8": "--dtype int8",
    "svd 512": "--reduce FILE",
    "svd 256": "--reduce FILE --reduce-dim 256",
    "svd 128": "--reduce FILE --reduce-dim 128",
    "svd 128, int8": "--reduce FILE --reduce-dim 128 --dtype int8",
}
SMALL = """--embed-dim 128 --hidden-dim 192 --attention-dim 96 --feature-dim 128 --batch-size 16 --epochs 3
    --learning-rate 3e-3"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left to do, then print the table."""
    options = parse(arguments)
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    file = str(work / "components.safetensors")
    limited = ["--ids", options.ids] if options.ids else []
    captionbeam("svd", "--features", options.features, "--output", file, "--components", str(MOST), *limited)
    for name, flags in FORMS.items():
        if flags and not place(options, name).exists():
            begun = time.monotonic()
            words = shlex.split(flags.replace("FILE", file))
            captionbeam(
                "encode", "--features", options.features, "--output", str(place(options, name)), *words
            )
            print(f"{name}: made in {time.monotonic() - begun:.0f} s", flush=True)
    for seed in range(options.seeds):
        for name in FORMS:
            train(options, name, seed)
    print(table(options))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--features", required=True, metavar="STORE", help="a features store of both splits, float16")
    add("--tokens", required=True, metavar="TOKENS", help="their token table")
    add("--ids", metavar="FILE", help="images that components are fitted to, an id a line (default: all)")
    add("--work", required=True, metavar="DIR", help="stores and bundles; kept")
    add("--seeds", type=int, default=2, metavar="N", help="runs of each form (default 2; 0 trains nothing)")
    add("--small", default=SMALL, metavar="FLAGS", help=f"the run (default {' '.join(SMALL.split())})")
    return parser.parse_args(arguments)


def place(options: argparse.Namespace, name: str) -> Path:
    """The store of a form."""
    return (
        Path(options.work, name.replace(", ", "-").replace(" ", ""))
        if FORMS[name]
        else Path(options.features)
    )


def bundle_of(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a run's bundle is."""
    return Path(options.work, f"{name.replace(', ', '-').replace(' ', '')}-bundle-{seed}")


def train(options: argparse.Namespace, name: str, seed: int) -> None:
    """One small run; nothing where it is there."""
    bundle = bundle_of(options, name, seed)
    if not (bundle / "config.json").exists():
        places = [
            "--features",
            str(place(options, name)),
            "--tokens",
            options.tokens,
            "--output",
            str(bundle),
        ]
        captionbeam("train", *places, *shlex.split(options.small), "--seed", str(seed))


def captionbeam(*words: str) -> None:
    """The command line of this environment."""
    subprocess.run([sys.executable, "-m", "captionbeam", *words], check=True)


def table(options: argparse.Namespace) -> str:
    """All forms, as Markdown."""
    lines = ["| kept as | bytes an image | of float16 | off by | val CIDEr |", "|---|---|---|---|---|"]
    whole = bytes_an_image(options.features)
    for name in FORMS:
        url = str(place(options, name))
        size, error = bytes_an_image(url), rounding_of(Store.open(url))
        off = f"{error['rms_relative']:.2%}" if error else ""
        lines.append(f"| {name} | {size:,.0f} | {size / whole:.1%} | {off} | {scores(options, name)} |")
    return "\n".join(lines)


def bytes_an_image(url: str) -> float:
    """Of the newest snapshot: data, index and failures, by its rows."""
    store = Store.open(url)
    return store.totals["bytes"] / store.count()


def scores(options: argparse.Namespace, name: str) -> str:
    """The mean CIDEr of the runs that are there, and each."""
    bundles = [bundle_of(options, name, seed) for seed in range(options.seeds)]
    found = [
        json.loads((bundle / "config.json").read_text())["scores"]["CIDEr"]
        for bundle in bundles
        if (bundle / "config.json").exists()
    ]
    if not found:
        return ""
    return f"{statistics.mean(found):.3f} ({', '.join(f'{one:.3f}' for one in found)})"


if __name__ == "__main__":
    sys.exit(main())
