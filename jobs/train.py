"""Train a captioner (a bundle) on features and tokens, with torchrun, here or on a cluster."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from typing import Any

from captionbeam.jobs.options.shared import positive, require
from captionbeam.jobs.options.training import add_groups, nothing_to_do
from captionbeam.jobs.presets import add_presets, naming_presets, with_presets
from captionbeam.jobs.submit import find_target
from captionbeam.jobs.submit.base import run_name
from captionbeam.jobs.submit.flags import add_target_options
from captionbeam.jobs.submit.nodes import find_node
from captionbeam.schemas.storage import files

HELP = """\
  captionbeam train --features features --tokens tokens --output bundle --epochs 8 --workers 2

Trains a decoder (--architecture; by default the attentive LSTM) on the newest snapshot of a features store and
on a token table, in --workers processes that torchrun starts on this machine, and saves the epoch with the best
CIDEr on the val split as a bundle. Stopped at any moment, by SIGTERM, Ctrl-C or kill -9, the same command goes
on from the last checkpoint to the same result. Elsewhere (docs/training.md), with --dry-run to see what is sent:

  captionbeam train ... --preset soft-attention         # a classic; --recipe: a whole tuned training
  captionbeam train ... --on slurm --nodes 2 --gpus 8 --partition gpu --max-hours 12
  captionbeam train ... --on kubernetes --nodes 2 --gpus 8 --image IMAGE --volume CLAIM:/data
  captionbeam train ... --on vertex --region us-central1 --machine-type g2-standard-12 --accelerator NVIDIA_L4 \\
      --image IMAGE
  captionbeam train ... --nodes 2 --workers 8 --rendezvous HOST:29500     # the same on both machines
"""
INSIDE_TORCHRUN = "TORCHELASTIC_RUN_ID"
expand = with_presets


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam train``."""
    add = parser.add_argument
    add("--features", required=True, metavar="STORE", help="the features store that encode wrote")
    add("--snapshot", type=positive, metavar="N", help="of the features store (default: the newest)")
    add("--tokens", required=True, metavar="TOKENS", help="the token table that tokenize wrote")
    add(
        "--init",
        metavar="BUNDLE",
        help="start from the weights of this bundle (same features, tokens, decoder)",
    )
    add("--output", required=True, metavar="BUNDLE", help="the folder of the trained captioner")
    add("--checkpoints", metavar="URL", help="where a stopped run goes on from (default BUNDLE-checkpoints)")
    add("--logs", metavar="DIR", help="TensorBoard's folder, local (default CHECKPOINTS/logs)")
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="processes on each machine (default: its --gpus, else 1)",
    )
    add("--keep-epochs", action="store_true", help="keep the weights of each epoch beside the checkpoint")
    add("--restart", action="store_true", help="forget the checkpoints and a finished bundle; start over")
    add_presets(parser)
    add_groups(parser)
    add_target_options(parser)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Validates the request, trains and reports. Returns 0 also if the bundle exists, 1 if stopped."""
    with naming_presets(options):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from captionbeam.capmodel.training.config import TrainOptions

    wanted = {field.name: getattr(options, field.name) for field in fields(TrainOptions)}
    if options.on == "local":
        return _train_here(options, wanted)
    from captionbeam.jobs.submit.submit import submit

    return submit(find_target(options.on), options, wanted)


def _train_here(options: argparse.Namespace, wanted: dict[str, Any]) -> int:
    from captionbeam.capmodel.training.request import WRITTEN, resolve_options
    from captionbeam.jobs.submit.local import describe, train_here
    from captionbeam.jobs.ui.training_view import TrainingView

    node = find_node(options.nodes, options.rendezvous, run_name(files.absolute(options.output)))
    workers = _settle_workers(options)
    chosen, anything_to_do = resolve_options(wanted, workers * node.nodes, () if options.dry_run else WRITTEN)
    if not anything_to_do:
        print(nothing_to_do(chosen.output))
        return 0
    if options.dry_run:
        print(describe(chosen, workers, node))
        return 0
    with TrainingView(chosen) as view:
        if INSIDE_TORCHRUN in os.environ:
            from captionbeam.capmodel.training.worker import StopRequest, train

            train(chosen, StopRequest().handle_signals(), view.show)
        else:
            train_here(chosen, workers, node, view)
    return view.finish()


def _settle_workers(options: argparse.Namespace) -> int:
    """Returns the number of processes. Raises RequestError if an outer torchrun has another number."""
    wanted = options.workers
    if INSIDE_TORCHRUN not in os.environ:
        return wanted or 1
    require(
        options.rendezvous is None,
        "--rendezvous would do nothing inside a torchrun; expected to leave it out",
    )
    world = int(os.environ["WORLD_SIZE"])
    require(
        wanted in (None, world),
        f"--workers is {wanted} inside a torchrun of {world} processes; expected {world}, or nothing",
    )
    return world
