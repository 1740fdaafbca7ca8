"""GPU presets of Dataflow workers: one GPU per worker, and a machine type that keeps it busy.

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
    """One preset. ``threads``: shards in progress in the one SDK process, so that reading overlaps with computing."""

    accelerator: str
    machine: str
    threads: int
    precision: str

    @property
    def service_option(self) -> str:
        """The value for ``--dataflow_service_options``."""
        return f"worker_accelerator=type:{self.accelerator};count:1;{DRIVER}"

    @property
    def flags(self) -> dict[str, str]:
        """Beam's single-valued options."""
        return {
            "machine_type": self.machine,
            "number_of_worker_harness_threads": str(self.threads),
            "disk_size_gb": str(DISK_GB),
        }


GPUS = {
    "t4": Gpu("nvidia-tesla-t4", "n1-standard-8", 4, "fp32"),
    "l4": Gpu("nvidia-l4", "g2-standard-8", 4, "bf16"),
    "a100": Gpu("nvidia-tesla-a100", "a2-highgpu-1g", 4, "bf16"),
    "h100": Gpu("nvidia-h100-80gb", "a3-highgpu-1g", 8, "bf16"),
}


def find_gpu(name: str) -> Gpu:
    """Returns the preset of this name. Raises RequestError."""
    require(name in GPUS, f"no GPU preset {name!r}; expected one of {', '.join(GPUS)}")
    return GPUS[name]
