"""Images/s of captioning with beam search against encoding alone, in one run: what the decoder costs.

    python benchmarks/caption.py IMAGES --bundle BUNDLE

Both are the real jobs, in processes of their own, in turn (encode, caption, caption, encode), with the bundle's
encoder, batch size and precision; the rates are those in the runs' records. Each runs with a quarter of the images
too: the time that the other three quarters take more is that of the images alone, without what a process does once
(a captioner imports its encoder's libraries on the worker's clock, an encoder on the launcher's).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from job_rates import job_rate

from captionbeam.capmodel.bundles.contents import read_manifest
from captionbeam.capmodel.specs import complete_spec


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    commands = {
        "encode": _encode_arguments(options),
        "caption": ["caption", options.source, "--bundle", options.bundle, "--beam", str(options.beam)],
    }
    seconds: dict[str, list[tuple[float, float]]] = {"encode": [], "caption": []}
    for name in ("encode", "caption", "caption", "encode"):
        quarter, every = (_seconds(commands[name], options, part) for part in (4, 1))
        seconds[name].append((every, every - quarter))
    whole, marginal = ({name: sum(run[part] for run in seconds[name]) for name in seconds} for part in (0, 1))
    figures = {
        "images": options.images,
        "beam": options.beam,
        **{name: [round(options.images / every, 2) for every, _ in runs] for name, runs in seconds.items()},
        "ratio": round(whole["encode"] / whole["caption"], 3),
        "ratio_without_start": round(marginal["encode"] / marginal["caption"], 3),
    }
    print(json.dumps(figures, indent=1))


def _seconds(command: list[str], options: argparse.Namespace, part: int) -> float:
    images = options.images // part
    return images / job_rate([*command, *_common(options), "--limit", str(images)], options.scratch)[0]


def _common(options: argparse.Namespace) -> list[str]:
    return [] if options.batch_size is None else ["--batch-size", str(options.batch_size)]


def _encode_arguments(options: argparse.Namespace) -> list[str]:
    """The encode command that makes the features that the bundle's encoder makes."""
    spec = complete_spec(read_manifest(options.bundle).encoder or {})
    if not spec:
        raise SystemExit(f"{options.bundle} holds no encoder; expected a bundle that captions images")
    if "imported" in spec:
        raise SystemExit(
            f"{options.bundle} was trained on imported features; expected a bundle that captions images"
        )
    weights = str(Path(options.bundle) / "encoder.safetensors")
    flags = ["--encoder", spec["name"], "--weights", weights, "--precision", spec["precision"]]
    flags += [] if spec["pool_padding"] else ["--exclude-pool-padding"]
    flags += [] if spec["output"] == "grid" else [f"--{spec['output']}"]
    return [
        "encode",
        options.source,
        *flags,
        *_picture_flags(spec["preprocess"]),
        *_kept_flags(options, spec),
    ]


def _picture_flags(preprocess: dict[str, Any]) -> list[str]:
    """All of how pictures are made ready: a weights file alone comes with its encoder's default."""
    flags = {"scaling": "--preprocess", "size": "--image-size"}
    names = ("scaling", "size", "resize", "crop", "interpolation", "channels")
    return [word for name in names for word in (flags.get(name, f"--{name}"), str(preprocess[name]))]


def _kept_flags(options: argparse.Namespace, spec: dict[str, Any]) -> list[str]:
    """What is kept of the features."""
    flags = ["--dtype", spec["dtype"]]
    if spec["reduction"] is None:
        return flags
    components = str(Path(options.bundle) / "components.safetensors")
    return [*flags, "--reduce", components, "--reduce-dim", str(spec["reduction"]["dim"])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="images: a folder, a zip, ...")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--images", type=int, default=1024, help="how many of them (default 1024)")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument(
        "--scratch", default=tempfile.gettempdir(), help="folder for the stores that the jobs write"
    )
    return parser


if __name__ == "__main__":
    main()
