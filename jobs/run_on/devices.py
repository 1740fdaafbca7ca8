"""Settles the workers' device and precision as far as the launcher knows them."""

from __future__ import annotations

from collections.abc import Sequence

from captionbeam.jobs.options.shared import require


def workers_precision(
    device: str, precision: str | None, beam_args: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Checks ``device`` for local workers; resolves the precision ``auto`` for remote ones.

    Returns the precision, and notes to print. Raises RequestError for a device that does not exist here or is invalid,
    and for ``auto`` if this machine cannot determine it.
    """
    from captionbeam.capmodel.runtime.device import named_device, pick_device, resolve_precision
    from captionbeam.pipelines.runners.runner import workers_elsewhere

    if not workers_elsewhere(beam_args):
        pick_device(device)
        return precision, ()
    asked = "cpu" if device == "auto" else named_device(device).type
    if precision != "auto":
        return precision, ()
    require(
        asked != "cuda",
        f"--precision auto cannot be resolved here for the workers' --device {device}; expected --precision fp32 or "
        "bf16",
    )
    chosen = resolve_precision("auto", device)
    return chosen, (f"--precision auto is {chosen} on this machine, and so on all workers",)
