"""Names and labels of our Dataflow jobs, in Google Cloud's syntax."""

from __future__ import annotations

import re

LONGEST = 63  # characters


def job_name(job: str, run_id: str) -> str:
    """Returns for example ``captionbeam-encode-20260102-030405-0a1b2c3d``: lower case, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", f"captionbeam-{job}-{run_id}".lower()).strip("-")[:LONGEST].rstrip("-")


def own_labels(job: str, run_id: str, store: str) -> dict[str, str]:
    """Returns the labels that identify our jobs, for search and cost reports."""
    return {
        "captionbeam-job": _value(job),
        "captionbeam-run": _value(run_id),
        "captionbeam-store": _value(store.partition("://")[2] or store),
    }


def _value(text: str) -> str:
    """Returns ``text`` as a label's value; keeps the end of a long one, which is more specific."""
    return re.sub("[^a-z0-9_-]", "_", text.lower())[-LONGEST:]
