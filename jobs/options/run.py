"""Options of every bulk job: shards, limits of failures, cost, batches, device, launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from captionbeam.jobs.options.command import PipelineCommand
from captionbeam.jobs.run_on.gpus import GPUS
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import (
    DEVICES,
    FILE,
    MONEY,
    POSITIVE,
    SHARE,
    SHARE_OR_NUMBER,
    one_of,
    option,
)
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.pipelines.bulk.gates import Gates


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """A dry run."""

    GROUP = "launch"

    dry_run: bool = option(
        False,
        "print as JSON what would run (on Dataflow: the job that would be sent), and write nothing",
        common=True,
    )


@dataclass(frozen=True, kw_only=True)
class GpuOptions(LaunchOptions):
    """A dry run, and the preset of Dataflow's GPU workers."""

    GROUP = "launch"

    gpu: str | None = option(
        None,
        f"preset of Dataflow workers: {', '.join(GPUS)}; sets accelerator, machine, processes, threads and disk where "
        "Beam's own flags do not",
        one_of(*GPUS),
        common=True,
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Shards, limits of failures and cost."""

    GROUP = "run"

    shard_size: int = option(
        1024, "images in a shard, the unit of work and of resuming", POSITIVE, common=True
    )
    threads: int | None = option(
        None,
        "threads of each worker process, for decoding and the model (default: OMP_NUM_THREADS, else the available "
        "cores divided by the worker processes of the machine, as far as Beam's options tell their number)",
        POSITIVE,
        common=True,
    )
    totals: str | None = option(
        None, "also write the run's totals (snapshot, rows, failures, ...) to this file, as JSON", FILE
    )
    retry_failures: bool = option(
        False,
        "process images with permanent failures again; temporary failures are always retried",
        common=True,
    )
    max_failures: float | None = option(
        None,
        "fail and publish nothing if more images than this share or number failed",
        SHARE_OR_NUMBER,
        common=True,
    )
    warn_failures: float = option(0.05, "exit with status 3 if a larger share failed", SHARE)
    publish_anyway: bool = option(
        False,
        "publish also what looks wrong: many more failures than in the newest snapshot, captions far less varied than "
        "there, 20 or more captions that are all empty, or 100 or more that are all equal",
        common=True,
    )
    price_per_hour: float | None = option(
        None, "price of all machines together; the summary then shows the cost of a million images", MONEY
    )

    def gates(self, max_deletes: float | None = None) -> Gates:
        """Returns the conditions for publishing."""
        from captionbeam.pipelines.bulk.gates import Gates

        return Gates(self.max_failures, max_deletes, compared=True, anyway=self.publish_anyway)

    def clear_totals(self) -> None:
        """Empties the file of --totals, so that it never has an earlier run's totals. Raises RequestError."""
        if self.totals:
            try:
                files.write_in_place(self.totals, b"")
            except OSError as err:
                said = f"--totals {self.totals!r} cannot be written ({err.strerror or err})"
                raise RequestError(f"{said}; expected a file in an existing folder") from err


@dataclass(frozen=True, kw_only=True)
class ModelOptions(GpuOptions):
    """Batches and device."""

    GROUP = "run"

    batch_size: int | None = option(None, "images in a forward pass (default: depends on the device)", POSITIVE,
                                    common=True)  # fmt: skip
    device: str = option(
        "auto",
        "auto, cpu, cuda (all GPUs of a machine), cuda:N, or several with commas, each with a copy of the model",
        DEVICES,
        common=True,
    )


@dataclass(frozen=True, kw_only=True)
class BulkCommand(RunOptions, LaunchOptions, PipelineCommand):
    """A command that processes images in shards and publishes a snapshot."""

    def begin(self) -> None:
        """Empties the file of --totals, except in a dry run. Raises RequestError."""
        if not self.dry_run:
            self.clear_totals()
