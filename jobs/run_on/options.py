"""Launch options of every pipeline job: dry run and GPU presets."""

from __future__ import annotations

import argparse

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.run_on.gpus import GPUS, find_gpu


def add_launch_options(parser: argparse.ArgumentParser, gpu: bool = True) -> None:
    """Adds ``--dry-run``, and with ``gpu`` the presets of Dataflow workers."""
    group = parser.add_argument_group("launching")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print as JSON what would run (on Dataflow: the job that would be sent), and touch nothing",
    )
    if gpu:
        group.add_argument(
            "--gpu",
            metavar="NAME",
            help=f"of Dataflow workers: {', '.join(GPUS)}; sets accelerator, machine, processes, threads and disk, "
            "unless Beam's own flags do",
        )


def settle_gpu(options: argparse.Namespace) -> None:
    """Sets the precision ``auto`` to that of ``--gpu``, independent of this machine.

    Raises RequestError for an unknown preset, and for a ``--device`` with it.
    """
    if options.gpu is None:
        return
    gpu = find_gpu(options.gpu)
    require(
        options.device == "auto",
        f"--device {options.device} contradicts --gpu {options.gpu}, whose workers use their GPU; expected one of them",
    )
    if getattr(options, "precision", None) == "auto":
        options.precision = gpu.precision
