"""Validates the workers' device and precision as far as the launcher knows them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from captionbeam.jobs.options.shared import require


def settle_device(options: argparse.Namespace, beam_args: Sequence[str]) -> tuple[str, ...]:
    """Checks ``--device`` for local workers; settles the precision ``auto`` for remote ones.

    Returns notes to print. Raises RequestError for a device that does not exist here or is invalid, and for ``auto`` if
    this machine cannot determine it.
    """
    from captionbeam.capmodel.runtime.device import named_device, pick_device, resolve_precision
    from captionbeam.pipelines.runners.runner import workers_elsewhere

    if not workers_elsewhere(beam_args):
        pick_device(options.device)
        return ()
    asked = "cpu" if options.device == "auto" else named_device(options.device).type
    if getattr(options, "precision", None) != "auto":
        return ()
    require(
        asked != "cuda",
        f"--precision auto is not known of the workers' --device {options.device} here; expected --precision fp32 or "
        "bf16",
    )
    options.precision = resolve_precision("auto", options.device)
    said = f"--precision {options.precision}, which auto is on this machine; workers compute in it whatever they have"
    return (said,)
