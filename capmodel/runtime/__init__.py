"""What a process runs on: device, precision, threads, process group, platform, lock of a run."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.runtime.device import exact_kernels, pick_device, resolve_precision
    from captionbeam.capmodel.runtime.distributed import Distributed, init_distributed
    from captionbeam.capmodel.runtime.platform import detect_platform
    from captionbeam.capmodel.runtime.run_lock import exclusive_run
    from captionbeam.capmodel.runtime.streams import Streams

__all__ = ["Distributed", "Streams", "detect_platform", "exact_kernels", "exclusive_run", "init_distributed",
           "pick_device", "resolve_precision"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    device="exact_kernels pick_device resolve_precision",
    distributed="Distributed init_distributed",
    platform="detect_platform",
    run_lock="exclusive_run",
    streams="Streams",
)
