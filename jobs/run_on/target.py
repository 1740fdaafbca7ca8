"""Where a pipeline runs: its Beam runner and flags, settled before anything is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, TypeVar

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)

from captionbeam.jobs.options.run import BulkCommand, ModelOptions
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.run_on.gpus import MANY_PROCESSES, ONE_PROCESS, find_gpu
from captionbeam.pipelines.runners.names import DATAFLOW, runner_of
from captionbeam.pipelines.workers.batches import WorkerJob
from captionbeam.pipelines.workers.processors import ModelJob
from captionbeam.schemas.options import options_of, shown

CPU_THREADS = "2"  # shards in progress: one computes on all cores while another is read
LOCAL = ("", "file", "local", "memory")
LONGEST = 63  # characters of a name or label in Google Cloud
PYTHON = re.compile(r"(?:py|python)-?(3\.\d+)")
BEAM = re.compile(r"beam[_-]?(2\.\d+\.\d+)|beam_python3\.\d+_sdk:(2\.\d+\.\d+)")


@dataclass(frozen=True)
class RunTarget:
    """The runner, and Beam's flags from the user and a preset. ``notes``: lines to print at launch."""

    runner: str
    beam_args: tuple[str, ...] = ()
    gpu: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def on_dataflow(self) -> bool:
        """Whether the runner is Dataflow."""
        return self.runner in DATAFLOW

    def with_device(self, job: WorkerJob) -> WorkerJob:
        """Returns ``job`` on the workers' device."""
        return replace(job, device="cuda") if self.gpu and isinstance(job, ModelJob) else job

    @property
    def record(self) -> dict[str, Any]:
        """The target for the run's record."""
        return {"name": self.runner, "beam_args": list(self.beam_args), "gpu": self.gpu}

    def arguments(self, job: str, run_id: str, store: str) -> list[str]:
        """Returns Beam's flags; on Dataflow with the job's name and labels, of which the user's win."""
        if not self.on_dataflow:
            return list(self.beam_args)
        labels = [f"--labels={key}={value}" for key, value in own_labels(job, run_id, store).items()]
        named = PipelineOptions(list(self.beam_args)).view_as(GoogleCloudOptions).job_name
        return [*labels, *self.beam_args, *([] if named else [f"--job_name={job_name(job, run_id)}"])]


B = TypeVar("B", bound=BulkCommand)
# Options whose files the launcher reads, and copies to the store where workers need them.
LAUNCHERS = (
    "--encoder", "--weights", "--reduce", "--bundle", "--captioner", "--score", "--rerank", "--with", "--prompt-file",
    "--schema",
)  # fmt: skip


def resolve_target(options: B, output: str = "output") -> tuple[RunTarget, B]:
    """Returns the target of a job on images, and its options with the precision that its workers compute in.

    ``output``: the field with its store. Raises RequestError.
    """
    places = {}
    for field, found in options_of(options):
        if found.location or field.name in ("sources", output):
            value = getattr(options, field.name) or ()
            places[shown(field, found)] = [value] if isinstance(value, str) else list(value)
    for option in LAUNCHERS:
        places.pop(option, None)
    if not isinstance(options, ModelOptions):
        return settle_target(options.pipeline_options, places, models=False), options
    device, precision = options.device, getattr(options, "precision", None)
    if options.gpu is not None:
        require(
            device == "auto",
            f"--device {device} contradicts --gpu {options.gpu}, whose workers use their GPU; expected one of them",
        )
        precision = find_gpu(options.gpu).precision if precision == "auto" else precision
    target = settle_target(options.pipeline_options, places, options.gpu)
    precision, notes = workers_precision(device, precision, options.pipeline_options)
    if precision != getattr(options, "precision", precision):
        options = replace(options, precision=precision)
    return replace(target, notes=(*target.notes, *notes)), options


def settle_target(
    beam_args: Sequence[str],
    places: Mapping[str, Sequence[str]],
    gpu: str | None = None,
    models: bool = True,
) -> RunTarget:
    """Returns the target of Beam's flags and the preset ``gpu``.

    ``places``: locations that workers must reach, by option name. ``models``: whether workers load a model, which
    should be once per process. Raises RequestError for options that cannot work on the target.
    """
    parsed = PipelineOptions(list(beam_args))
    name = runner_of(parsed) or "FnApiRunner"
    if name not in DATAFLOW:
        require(
            gpu is None,
            f"--gpu {gpu} is of Dataflow's workers, not of {name}; expected --runner DataflowRunner",
        )
        return RunTarget(name, tuple(beam_args))
    _check_places(places)
    image = parsed.view_as(WorkerOptions).sdk_container_image
    check_versions(image)
    require(
        image or not gpu,
        f"--gpu {gpu} needs workers with torch and CUDA; expected --sdk_container_image with an image of containers/",
    )
    added, remarks = _workers(parsed, gpu) if models else ([], [])
    if parsed.view_as(SetupOptions).save_main_session is None:
        # the main session has none of our code, and workers would import the command line
        added.append("--no_save_main_session")
    return RunTarget(name, (*beam_args, *added), gpu, tuple(remarks))


def _check_places(places: Mapping[str, Sequence[str]]) -> None:
    for option, urls in places.items():
        for url in urls:
            protocol, apart, _ = url.rpartition("::")[2].partition("://")  # of a chained URL the outermost
            require(
                bool(apart) and protocol not in LOCAL,
                f"{option} {url} is on this machine, where workers on Dataflow do not see it; expected gs://... or "
                "another URL",
            )


def _workers(parsed: PipelineOptions, gpu: str | None) -> tuple[list[str], list[str]]:
    """Returns flags that the user has not set, and a note for each preset value that the user overrides."""
    wanted = find_gpu(gpu).flags if gpu else {"number_of_worker_harness_threads": CPU_THREADS}
    given = parsed.get_all_options()
    added = [f"--{name}={value}" for name, value in wanted.items() if given.get(name) is None]
    notes = [
        f"--{name} {given[name]} instead of {value} of --gpu {gpu}"
        for name, value in wanted.items()
        if gpu and given.get(name) is not None and str(given[name]) != value
    ]
    experiments = given.get("experiments") or []
    many = MANY_PROCESSES in experiments
    processes = ("use_runner_v2",) if many else ("use_runner_v2", ONE_PROCESS)
    added += [f"--experiments={name}" for name in processes if name not in experiments]
    if many:
        notes.append(f"--experiments {MANY_PROCESSES}: each process of a worker loads a model of its own")
    if gpu:
        services = given.get("dataflow_service_options") or []
        theirs = [one for one in services if one.startswith("worker_accelerator=")]
        if theirs:
            notes.append(f"--dataflow_service_options {theirs[0]} instead of the accelerator of --gpu {gpu}")
        else:
            added.append(f"--dataflow_service_options={find_gpu(gpu).service_option}")
    return added, notes


def workers_precision(
    device: str, precision: str | None, beam_args: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Checks ``device`` for local workers; resolves the precision ``auto`` for remote ones.

    Returns the precision, and notes to print. Raises RequestError for a device that does not exist here or is invalid,
    and for ``auto`` if this machine cannot determine it.
    """
    from captionbeam.capmodel.runtime.device import named_devices, pick_device, resolve_precision
    from captionbeam.pipelines.runners.runner import workers_elsewhere

    if not workers_elsewhere(beam_args):
        pick_device(device)
        return precision, ()
    asked = "cpu" if device == "auto" else named_devices(device)[0].type
    if precision != "auto":
        return precision, ()
    require(
        asked != "cuda",
        f"--precision auto cannot be resolved here for the workers' --device {device}; expected --precision fp32 or "
        "bf16",
    )
    chosen = resolve_precision("auto", device)
    return chosen, (f"--precision auto is {chosen} on this machine, and so on all workers",)


def check_versions(image: str | None) -> None:
    """Raises RequestError for an image with another Python or Beam, whose workers could not read the job."""
    here = {"Python": ".".join(map(str, sys.version_info[:2])), "Beam": metadata.version("apache-beam")}
    for name, pattern in (("Python", PYTHON), ("Beam", BEAM)):
        found = pattern.search(image or "")
        there = next(filter(None, found.groups()), None) if found else None
        require(
            there in (None, here[name]),
            f"the image {image} has {name} {there}, this launcher {here[name]}; expected the same",
        )


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
