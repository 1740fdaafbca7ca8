"""Fit components to features: the directions of most variance, for reducing features."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import PipelineCommand, Result
from captionbeam.jobs.options.run import LaunchOptions
from captionbeam.jobs.options.shared import read_ids
from captionbeam.jobs.ui.progress import Progress, clock, watching
from captionbeam.jobs.ui.summary import print_table, size
from captionbeam.jobs.ui.terminal import say
from captionbeam.pipelines.reduction.svd_options import SvdOptions
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import complete, difference
from captionbeam.schemas.options import FILE, STORE, option, part_of, text
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.schemas.formats.components import Components

SHOWN = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class FitComponents(SvdOptions, LaunchOptions, PipelineCommand):
    """Fits components to a store of features."""

    HELP = """\
  captionbeam svd --features features --output components.safetensors
  captionbeam encode photos.zip --output small --encoder inception_v3 --reduce components.safetensors

Computes the components of a features store by singular value decomposition: orthonormal directions over the channels,
ordered by the variance that they explain. The features are read once; their second moments are summed in float64. The
file has the variance ratio of each component and the fingerprint of the features; encode --reduce accepts only features
with this fingerprint. Other flags are those of Beam's PipelineOptions.
"""
    name = "svd"

    features: str = option(
        ..., "a features store, or one of its snapshots: STORE@TAG", STORE, opens=inputs.store
    )
    output: str = option(
        ...,
        "the file that is written, a name that ends in .safetensors",
        text("FILE", "a name that ends in .safetensors", lambda value: value.endswith(".safetensors")),
    )
    ids: str | None = option(
        None,
        "a text file with an image id on each line, such as the training split; only these are used",
        FILE,
        opens=inputs.ids,
    )
    overwrite: bool = option(False, "replace other components in the output file")

    def execute(self) -> Result:
        """Fits the components, unless the file has them already."""
        from captionbeam.jobs.run_on.running import print_dry, run_on
        from captionbeam.jobs.run_on.target import settle_target
        from captionbeam.pipelines.reduction import svd
        from captionbeam.pipelines.workers import progress_counter

        places = {"--features": [self.features], "--output": [self.output]}
        target = settle_target(self.pipeline_options, places, models=False)
        wanted = replace(part_of(SvdOptions, self), image_ids=read_ids(self.ids) if self.ids else None)
        start, run_id, url = time.monotonic(), uuid.uuid4().hex, files.absolute(self.output)
        store = Store.open(self.features)
        request = {"features": store.url, "snapshot": store.snapshot_id, **wanted.spec()}
        if not self.overwrite and files.exists(url):
            _check_same(self.output, url, request)
            say(f"nothing to do: {self.output} has these components already")
            return self._result(url, None)
        fit = svd.FitComponents(store, url, wanted, request, run_id)

        def build(pipeline: Any) -> Any:
            return pipeline | "FitComponents" >> fit

        if self.dry_run:
            about = {"job": self.name, "output": url, "options": request}
            return Result(totals=print_dry(target, build, self.name, run_id, url, about))
        files.check_writable(url.rpartition("/")[0])

        def look(progress: Progress) -> None:
            if read := progress_counter.count(run_id):
                progress.update(min(read, store.count()))

        with watching(Progress(self.name, store.count()), look):
            done = run_on(target, build, self.name, run_id, url, f"{url}.launch")
        return self._result(url, time.monotonic() - start) if done else Result(output=url)

    def _result(self, url: str, seconds: float | None) -> Result:
        """Prints the components at ``url``, and returns their description."""
        from captionbeam.schemas.formats.components import read_components

        found = read_components(url)
        print_table(f"components: {self.output}", _rows(found, seconds))
        return Result(totals={**found.about, "method": found.method, "sha256": found.sha256}, output=url)


def _check_same(named: str, url: str, request: Mapping[str, Any]) -> None:
    """Raises RequestError if the components at ``url`` are those of another request."""
    from captionbeam.schemas.formats.components import read_components

    there, wanted = (
        complete(SvdOptions, about) for about in (read_components(url).about["request"], request)
    )
    if odd := difference(there, wanted, most=1):
        raise RequestError(
            f"{named!r} has components of {odd}; expected the same options, another --output or --overwrite"
        )


def _rows(components: Components, seconds: float | None) -> dict[str, Any]:
    about, (count, channels) = components.about, components.vectors.shape
    shown = sorted({number for number in SHOWN if number < channels} | {count})
    rows = {
        "method": f"{components.method}, {count:,} of {channels:,} components",
        "fitted to": f"{about['cells']:,} cells of {about['images']:,} images",
        "features": about["fingerprint"],
        "explained variance": "\n".join(
            f"{number:5,} components {about['cumulative'][number - 1]:8.3%}, the last of them "
            f"{about['explained_variance_ratio'][number - 1]:.3%}"
            for number in shown
        ),
        "file": f"{size(components.vectors.nbytes)}, sha256 {components.sha256}",
    }
    return {**rows, "time": clock(seconds)} if seconds is not None else rows
