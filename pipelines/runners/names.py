"""Names of Beam's runners, and groups of similar ones."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

IN_PROCESS = (None, "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner")
DATAFLOW = ("DataflowRunner",)
ONE_WORKER = ("PrismRunner",)  # always one process per environment
_KNOWN = {
    name.lower(): name for name in (path.rsplit(".", 1)[-1] for path in StandardOptions.ALL_KNOWN_RUNNERS)
}


def runner_of(options: PipelineOptions) -> str | None:
    """Returns the runner's class name for any of Beam's spellings (``prism``, ``PrismRunner``, with its module)."""
    name: str | None = options.view_as(StandardOptions).runner
    if name is None:
        return None
    last = name.rsplit(".", 1)[-1]
    return _KNOWN.get(last.lower(), _KNOWN.get(f"{last.lower()}runner", last))
