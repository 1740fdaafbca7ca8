"""Launch options of every pipeline job: dry run and GPU presets."""

from __future__ import annotations

import argparse

from captionbeam.jobs.run_on.gpus import GPUS


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
