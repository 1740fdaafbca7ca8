"""Submits a run to a platform and waits for it; common to all targets except ``local``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.request import delete_run, resolve_options
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.options.training import GROUPS, nothing_to_do
from captionbeam.jobs.submit.base import Order, Target, run_name
from captionbeam.jobs.submit.follow import follow
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage import options as storage_options


def submit(target: Target, flags: argparse.Namespace, wanted: Mapping[str, Any]) -> int:
    """Validates, submits the run or finds its active job, and waits.

    Returns 0 if the bundle exists (or, with --no-wait, if the job is submitted). Raises RequestError before anything is
    sent, SystemicError if the job fails.
    """
    target.check(flags)
    told = storage_words(target, flags)
    nodes, workers = flags.nodes or 1, flags.workers or flags.gpus or 1
    logs = {"logs": wanted["logs"] if target.logs_are_seen else None}
    written = ("output", "checkpoints", *(["logs"] if target.logs_are_seen else []))
    chosen, anything_to_do = resolve_options(
        {**wanted, **logs}, nodes * workers, () if flags.dry_run else written
    )
    if not anything_to_do:
        print(nothing_to_do(chosen.output))
        return 0
    order = _order(target, flags, chosen, nodes, workers, told)
    if flags.dry_run:
        print(target.request(order))
        return 0
    job = target.find_active(order)
    require(
        job is None or not flags.restart,
        f"{job and job.id} on {target.title} trains {chosen.output} just now; expected no --restart until it is over",
    )
    if job is None:
        if flags.restart:
            delete_run(chosen)
        job = target.submit(order)
        print(f"submitted to {target.title}: {job.id} ({job.view})", flush=True)
    else:
        print(f"on {target.title} already: {job.id} ({job.view})", flush=True)
    return 0 if flags.no_wait else follow(target, job, order)


def _order(
    target: Target,
    flags: argparse.Namespace,
    chosen: TrainOptions,
    nodes: int,
    workers: int,
    told: Sequence[str],
) -> Order:
    given = [name for name in ("init", "embeddings") if getattr(chosen, name)]
    names = ("features", "tokens", "output", "checkpoints", *given)
    places: dict[str, Any] = {name: target.on_workers(getattr(chosen, name), flags) for name in names}
    name = run_name(places["output"])
    logs = target.logs_on_workers(files.absolute(flags.logs) if flags.logs else None, name, flags)
    # the machine's own disk, in a folder that any user can write
    if logs is None and "://" in places["checkpoints"]:
        logs = f"/tmp/{name}-logs"
    if logs is not None:
        places["logs"] = logs
    there = replace(chosen, **places)
    machines = ["--workers", str(workers), "--nodes", str(nodes), *target.gathering]
    command = (*words_of(there, [*places]), *told, *machines)
    return Order(chosen, flags, nodes, workers, command, name)


def storage_words(target: Target, flags: argparse.Namespace) -> list[str]:
    """Returns ``--storage-options`` for the workers: as JSON, or a file name. Raises RequestError for secrets."""
    chosen = storage_options.current()
    if not chosen:
        return []
    shown = storage_options.for_record(chosen)
    if shown == chosen:
        return ["--storage-options", json.dumps(chosen)]
    hidden = [
        f"{name}'s {key}" for name in chosen for key in chosen[name] if shown[name][key] != chosen[name][key]
    ]
    require(
        flags.storage_file is not None,
        f"--storage-options have {' and '.join(hidden)}, which may be secret, and a job's command is for many to "
        f"read; expected it in {target.secrets}",
    )
    return ["--storage-options", target.on_workers(flags.storage_file, flags)]


def words_of(options: TrainOptions, places: list[str]) -> list[str]:
    """Returns ``captionbeam train`` with equivalent options; of locations only those in ``places``."""
    values = {name: getattr(options, name) for name in [*places, "snapshot"]}
    usual = {name: getattr(TrainOptions, name) for group in GROUPS.values() for name in group}
    changed = {name: getattr(options, name) for name in usual if getattr(options, name) != usual[name]}
    said = [word for name, value in {**values, **changed}.items() for word in _flag(name, value)]
    switches = ["--keep-epochs"] if options.keep_epochs else []
    return ["captionbeam", "train", *said, *switches]


def _flag(name: str, value: object) -> list[str]:
    """Returns ``--name value``, or ``--name`` or ``--no-name``."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [f"--{dashed}", str(value)]
