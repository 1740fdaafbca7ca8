"""GPU presets of Dataflow workers: one or more GPUs, and a machine type whose cores decode for them.

The accelerator is a service option of the job, not a resource hint: with hints the service starts a second worker pool
for the stages without a GPU (listing and publishing).
"""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.shared import require

# plain install-nvidia-driver installs a driver too old for CUDA 12 and later
DRIVER = "install-nvidia-driver:5xx"
MANY_PROCESSES = "use_multiple_sdk_containers"
ONE_PROCESS = f"no_{MANY_PROCESSES}"
DISK_GB = 100  # the unpacked image, driver and weights; the service's 25 GB are too small for a CUDA image


@dataclass(frozen=True)
class Gpu:
    """One preset: ``count`` GPUs of a worker.

    ``threads``: shards in progress in the one SDK process, so that reading overlaps with computing.
    """

    accelerator: str
    machine: str
    threads: int
    precision: str
    count: int = 1

    @property
    def service_option(self) -> str:
        """The value for ``--dataflow_service_options``."""
        return f"worker_accelerator=type:{self.accelerator};count:{self.count};{DRIVER}"

    @property
    def flags(self) -> dict[str, str]:
        """Beam's single-valued options."""
        return {
            "machine_type": self.machine,
            "number_of_worker_harness_threads": str(self.threads),
            "disk_size_gb": str(DISK_GB),
        }


# the machine for one GPU, and for several; its accelerator, its threads for each GPU, and its precision
_MACHINES = {
    "t4": ("nvidia-tesla-t4", 4, "fp32", {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"}),
    "l4": (
        "nvidia-l4",
        4,
        "bf16",
        {1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
    ),
    "a100": ("nvidia-tesla-a100", 4, "bf16", {count: f"a2-highgpu-{count}g" for count in (1, 2, 4, 8)}),
    "h100": ("nvidia-h100-80gb", 8, "bf16", {count: f"a3-highgpu-{count}g" for count in (1, 2, 4, 8)}),
}
GPUS = {
    name if count == 1 else f"{name}x{count}": Gpu(accelerator, machine, threads * count, precision, count)
    for name, (accelerator, threads, precision, machines) in _MACHINES.items()
    for count, machine in machines.items()
}


def find_gpu(name: str) -> Gpu:
    """Returns the preset of this name. Raises RequestError."""
    require(name in GPUS, f"no GPU preset {name!r}; expected one of {', '.join(GPUS)}")
    return GPUS[name]
