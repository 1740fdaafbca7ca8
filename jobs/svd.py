"""Fit components to features: the directions of most variance, for reducing features."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import natural, positive, read_ids, share
from captionbeam.jobs.run_on.options import add_launch_options
from captionbeam.jobs.ui.progress import Progress, clock, polling
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.pipelines.reduction.svd import SvdOptions
    from captionbeam.schemas.formats.components import Components

HELP = """\
  captionbeam svd --features features --output components.safetensors
  captionbeam encode photos.zip --output small --encoder inception_v3 --reduce components.safetensors

Finds the components of a store of features: the orthonormal directions, over its channels, that lose least of its
cells (grids) or vectors (pooled). The features are read once, their second moments summed in float64. The file says
how much of the variance each component explains, and which features it is for: encode --reduce refuses others.
"""
BEAM = True
SHOWN = (16, 32, 64, 128, 256, 512, 1024)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam svd``."""
    parser.add_argument(
        "--features", required=True, metavar="STORE", help="a features store, or a snapshot of it: STORE@prod"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="for the components: a name that ends in .safetensors"
    )
    parser.add_argument(
        "--components",
        type=positive,
        default=128,
        metavar="K",
        help="how many are kept (default 128); encode --reduce-dim may take fewer, the first ones",
    )
    parser.add_argument(
        "--center",
        action="store_true",
        help="take the mean off first (PCA); without it the reduction is one matrix product, and what was zero stays "
        "zero (SVD)",
    )
    parser.add_argument(
        "--scale",
        action="store_true",
        help="divide each channel by its root mean square first (with --center: its standard deviation), so that all "
        "weigh alike: for encode --layers, whose layers' numbers are of different sizes",
    )
    parser.add_argument(
        "--sample",
        type=share,
        default=1.0,
        metavar="RATE",
        help="of this share of the images, chosen by a hash of their ids; a few thousand say nearly as much as all",
    )
    parser.add_argument(
        "--seed", type=natural, metavar="N", help="of --sample; another seed, other images (default 0)"
    )
    parser.add_argument(
        "--ids",
        metavar="FILE",
        help="of these images alone, an id a line: the training split's, so that no other is looked at",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other components at --output")
    add_launch_options(parser, gpu=False)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Fits the components, unless they exist."""
    from captionbeam.jobs.run_on.running import print_dry, run_on
    from captionbeam.jobs.run_on.target import settle_target
    from captionbeam.pipelines.reduction.svd import FitComponents, images_so_far

    places = {"--features": [options.features], "--output": [options.output]}
    target = settle_target(beam_args, places, models=False)
    wanted = _wanted(options)
    start, run_id, url = time.monotonic(), uuid.uuid4().hex, files.absolute(options.output)
    store = Store.open(options.features)
    request = {"features": store.url, "snapshot": store.snapshot_id, **wanted.spec()}
    if _is_there(url, request, options):
        return 0
    fit = FitComponents(store, url, wanted, request, run_id)

    def build(pipeline: Any) -> Any:
        return pipeline | "FitComponents" >> fit

    if options.dry_run:
        print_dry(target, build, "svd", run_id, url, {"job": "svd", "output": url, "options": request})
        return 0
    files.check_writable(url.rpartition("/")[0])
    progress = Progress("svd", store.count(), stream=sys.stderr)

    def poll() -> None:
        if read := images_so_far(run_id):
            progress.update(min(read, store.count()))

    with polling(progress, poll):
        done = run_on(target, build, "svd", run_id, url, f"{url}.launch")
    return _report(options.output, url, time.monotonic() - start) if done else 0


def _wanted(options: argparse.Namespace) -> SvdOptions:
    """Returns the options of the fit. Raises RequestError for options without effect, or without images."""
    from captionbeam.jobs.options.shared import require
    from captionbeam.pipelines.reduction.svd import SvdOptions

    require(
        options.output.endswith(".safetensors"),
        f"--output {options.output!r} would hold safetensors; expected a name that ends in .safetensors",
    )
    require(options.sample > 0, "--sample 0 leaves no image; expected a share above 0")
    require(
        options.seed is None or options.sample < 1,
        f"--seed {options.seed} would do nothing without --sample; expected to leave it out",
    )
    ids = read_ids(options.ids) if options.ids else None
    return SvdOptions(
        options.components, options.center, options.sample, options.seed or 0, ids, options.scale
    )


def _is_there(url: str, request: Mapping[str, Any], options: argparse.Namespace) -> bool:
    """Whether these components exist at ``url`` (prints them if so). Raises RequestError for others."""
    from captionbeam.pipelines.reduction.svd import SvdOptions
    from captionbeam.schemas.fingerprint import complete, difference
    from captionbeam.schemas.formats.components import read_components

    if options.overwrite or not files.exists(url):
        return False
    there, wanted = (
        complete(SvdOptions, about) for about in (read_components(url).about["request"], request)
    )
    if odd := difference(there, wanted, most=1):
        raise RequestError(
            f"{options.output!r} holds components of {odd}; expected the same request, a new --output or --overwrite"
        )
    print(f"nothing to do: {options.output} holds these very components")
    return _report(options.output, url, None) == 0


def _report(named: str, url: str, seconds: float | None) -> int:
    from captionbeam.schemas.formats.components import read_components

    print_table(f"components: {named}", _rows(read_components(url), seconds))
    return 0


def _rows(components: Components, seconds: float | None) -> dict[str, Any]:
    about, (count, channels) = components.about, components.vectors.shape
    shown = sorted({number for number in SHOWN if number < channels} | {count})
    rows = {
        "method": f"{components.method}, {count:,} of {channels:,} components",
        "fitted on": f"{about['cells']:,} cells of {about['images']:,} images",
        "features": about["fingerprint"],
        "explained variance": "\n".join(_line(number, about) for number in shown),
        "file": f"{size(components.vectors.nbytes)}, sha256 {components.sha256}",
    }
    return {**rows, "time": clock(seconds)} if seconds is not None else rows


def _line(number: int, about: Mapping[str, Any]) -> str:
    ratio, cumulative = about["explained_variance_ratio"][number - 1], about["cumulative"][number - 1]
    return f"{number:5,} components {cumulative:8.3%}, the last of them {ratio:.3%}"
