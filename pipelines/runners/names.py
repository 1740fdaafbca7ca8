"""Beam's runners by name, and which of them are alike."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

IN_PROCESS = (None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")
DATAFLOW = ("DataflowRunner",)
ONE_WORKER = ("PrismRunner",)  # one process of each environment, whatever is asked for
_KNOWN = {
    name.lower(): name for name in (path.rsplit(".", 1)[-1] for path in StandardOptions.ALL_KNOWN_RUNNERS)
}


def runner_of(options: PipelineOptions) -> str | None:
    """The runner's class name, whichever way Beam lets it be written (``prism``, ``PrismRunner``, with its module)."""
    name = options.view_as(StandardOptions).runner
    if name is None:
        return None
    last = name.rsplit(".", 1)[-1]
    return _KNOWN.get(last.lower(), _KNOWN.get(f"{last.lower()}runner", last))
