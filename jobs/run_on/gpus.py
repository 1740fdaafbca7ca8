"""GPU presets of Dataflow workers: one GPU a worker, and a machine that keeps it busy.

The accelerator is the job's service option and no resource hint: with hints the service starts a second pool of workers
for the stages without a GPU, which are listing and publishing.
"""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.options.shared import require

DRIVER = "install-nvidia-driver:5xx"  # the plain form installs a driver too old for torch's CUDA 12 and later
MANY_PROCESSES = "use_multiple_sdk_containers"
ONE_PROCESS = f"no_{MANY_PROCESSES}"
DISK_GB = 100  # the image unpacked, the driver, the weights; the service's 25 GB do not hold a CUDA image


@dataclass(frozen=True)
class Gpu:
    """One preset. ``threads`` are shards in flight in the one SDK process: while one computes, others are read."""

    accelerator: str
    machine: str
    threads: int
    precision: str

    @property
    def service_option(self) -> str:
        """As ``--dataflow_service_options`` takes it."""
        return f"worker_accelerator=type:{self.accelerator};count:1;{DRIVER}"

    @property
    def flags(self) -> dict[str, str]:
        """Beam's options that have one value each."""
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
    """The preset of this name. Raises RequestError."""
    require(name in GPUS, f"no GPU preset {name!r}; expected one of {', '.join(GPUS)}")
    return GPUS[name]
