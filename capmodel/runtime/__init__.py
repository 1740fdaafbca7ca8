"""What a process runs on: device, precision, threads, process group, platform, lock of a run."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.runtime.device import (
        exact_kernels,
        named_device,
        pick_device,
        resolve_precision,
        use_threads,
    )
    from captionbeam.capmodel.runtime.distributed import Distributed, init_distributed
    from captionbeam.capmodel.runtime.platform import detect_platform
    from captionbeam.capmodel.runtime.run_lock import exclusive_run
    from captionbeam.capmodel.runtime.streams import Streams, share_threads

__all__ = ["Distributed", "Streams", "detect_platform", "exact_kernels", "exclusive_run", "init_distributed",
           "named_device", "pick_device", "resolve_precision", "share_threads", "use_threads"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    device="exact_kernels named_device pick_device resolve_precision use_threads",
    distributed="Distributed init_distributed",
    platform="detect_platform",
    run_lock="exclusive_run",
    streams="Streams share_threads",
)
