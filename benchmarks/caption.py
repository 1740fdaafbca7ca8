"""Images/s of captioning with beam search against encoding alone, in one run: what the decoder costs.

    python benchmarks/caption.py IMAGES --bundle BUNDLE

Both are the real jobs, in processes of their own, in turn (encode, caption, caption, encode), with the bundle's
encoder, batch size and precision; the rates are those in the runs' records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from job_rates import job_rate

from capmodel.bundle_files import read_manifest


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    encode = _encode_arguments(options)
    caption = ["caption", options.source, "--bundle", options.bundle, "--beam", str(options.beam)]
    common = ["--limit", str(options.images), "--batch-size", str(options.batch_size)]
    rates: dict[str, list[float]] = {"encode": [], "caption": []}
    for name, command in (("encode", encode), ("caption", caption), ("caption", caption), ("encode", encode)):
        rates[name].append(round(job_rate([*command, *common], options.scratch)[0], 2))
    ratio = statistics.mean(rates["caption"]) / statistics.mean(rates["encode"])
    print(
        json.dumps(
            {"images": options.images, "beam": options.beam, **rates, "ratio": round(ratio, 3)}, indent=1
        )
    )


def _encode_arguments(options: argparse.Namespace) -> list[str]:
    """The encode command that makes the features that the bundle's encoder makes."""
    spec = read_manifest(options.bundle).encoder
    if spec is None:
        raise SystemExit(f"{options.bundle} holds no encoder; expected a bundle that captions images")
    weights = str(Path(options.bundle) / "encoder.safetensors")
    flags = ["--encoder", spec["name"], "--weights", weights, "--precision", spec["precision"]]
    flags += ["--preprocess", spec["preprocess"]["scaling"]]
    flags += [] if spec["pool_padding"] else ["--exclude-pool-padding"]
    flags += ["--pooled"] if spec["output"] == "pooled" else []
    return ["encode", options.source, *flags]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="images: a folder, a zip, ...")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--images", type=int, default=1024, help="how many of them (default 1024)")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--scratch", default=tempfile.gettempdir(), help="folder for the stores that the jobs write"
    )
    return parser


if __name__ == "__main__":
    main()
