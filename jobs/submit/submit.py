"""Submits a run to a platform and waits for it; common to all targets except ``local``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.training.config import TrainingOptions, TrainOptions
from captionbeam.capmodel.training.request import delete_run, resolve_options
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.submit.follow import follow
from captionbeam.jobs.submit.training_target import Order, TrainingTarget, run_name
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.options import flag_of, groups_of
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage import options as storage_options

if TYPE_CHECKING:
    from captionbeam.jobs.train import Train


def submit(target: TrainingTarget, command: Train) -> Result:
    """Validates, submits the run or finds its active job, and waits.

    Done if the bundle exists (or, with --no-wait, if the job is submitted). Raises RequestError before anything is
    sent, SystemicError if the job fails.
    """
    from captionbeam.jobs.train import nothing_to_do

    target.check(command)
    storage = storage_words(target, command)
    nodes, workers = command.nodes or 1, command.workers or command.gpus or 1
    wanted = {**command.chosen(), "logs": command.logs if target.logs_are_seen else None}
    written = ("output", "checkpoints", *(["logs"] if target.logs_are_seen else []))
    chosen, anything_to_do = resolve_options(wanted, nodes * workers, () if command.dry_run else written)
    if not anything_to_do:
        say(nothing_to_do(chosen.output))
        return Result()
    order = _order(target, command, chosen, nodes, workers, storage)
    if command.dry_run:
        text = target.request(order)
        say(text)
        return Result(totals={"request": text})
    job = target.find_active(order)
    require(
        job is None or not command.restart,
        f"{job and job.id} on {target.title} trains {chosen.output} just now; expected no --restart until it is over",
    )
    if job is None:
        if command.restart:
            delete_run(chosen)
        job = target.submit(order)
        say(f"submitted to {target.title}: {job.id} ({job.view})")
    else:
        say(f"on {target.title} already: {job.id} ({job.view})")
    return Result() if command.no_wait else Result(follow(target, job, order))


def _order(
    target: TrainingTarget,
    command: Train,
    chosen: TrainOptions,
    nodes: int,
    workers: int,
    storage: Sequence[str],
) -> Order:
    given = [name for name in ("init", "embeddings") if getattr(chosen, name)]
    names = ("features", "tokens", "output", "checkpoints", *given)
    places: dict[str, Any] = {name: target.on_workers(getattr(chosen, name), command) for name in names}
    name = run_name(places["output"])
    logs = target.logs_on_workers(files.absolute(command.logs) if command.logs else None, name, command)
    # the machine's own disk, in a folder that any user can write
    if logs is None and "://" in places["checkpoints"]:
        logs = f"/tmp/{name}-logs"
    if logs is not None:
        places["logs"] = logs
    machines = ["--workers", str(workers), "--nodes", str(nodes), *target.gathering]
    words = (*words_of(replace(chosen, **places), [*places]), *storage, *machines)
    return Order(chosen, command, nodes, workers, words, name)


def storage_words(target: TrainingTarget, command: Train) -> list[str]:
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
    given = str(command.storage_options)
    require(
        not given.lstrip().startswith("{"),
        f"--storage-options have {' and '.join(hidden)}, which may be secret, and a job's command is for many to "
        f"read; expected it in {target.secrets}",
    )
    return ["--storage-options", target.on_workers(files.absolute(given), command)]


def words_of(options: TrainOptions, places: Sequence[str]) -> list[str]:
    """Returns ``captionbeam train`` with equivalent options; of locations only those in ``places``."""
    words = ["captionbeam", "train"]
    for name in (*places, "snapshot"):
        words += [flag_of(name), str(getattr(options, name))]
    for field, found in (entry for group in groups_of(TrainingOptions).values() for entry in group):
        value = getattr(options, field.name)
        if value == field.default or field.name in (*places, "restart"):
            continue
        flag = flag_of(field.name, found)
        words += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return words
