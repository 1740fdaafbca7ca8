"""Settles the workers' device and precision as far as the launcher knows them."""

from __future__ import annotations

from collections.abc import Sequence

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.run_on.gpus import find_gpu
from captionbeam.pipelines.runners.runner import workers_elsewhere


def settle_precision(
    beam_args: Sequence[str], gpu: str | None, device: str, precision: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Returns the workers' precision (None if the job has none), and notes to print.

    ``auto`` becomes the preset's with ``gpu``, and this machine's if workers are elsewhere; local workers keep it.
    Raises RequestError for a device that does not exist here or contradicts ``gpu``, and for ``auto`` if this machine
    cannot determine it.
    """
    from captionbeam.capmodel.runtime.device import named_device, pick_device, settle_precision

    if gpu is not None:
        preset = find_gpu(gpu)
        require(
            device == "auto",
            f"--device {device} contradicts --gpu {gpu}, whose workers use their GPU; expected one of them",
        )
        precision = preset.precision if precision == "auto" else precision
    if not workers_elsewhere(beam_args):
        pick_device(device)
        return precision, ()
    asked = "cpu" if device == "auto" else named_device(device).type
    if precision != "auto":
        return precision, ()
    require(
        asked != "cuda",
        f"--precision auto is not known of the workers' --device {device} here; expected --precision fp32 or bf16",
    )
    found = settle_precision("auto", device)
    return found, (
        f"--precision {found}, which auto is on this machine; workers compute in it whatever they have",
    )
