"""What a process runs on: device, precision, threads, memory, process group, platform, lock of a run."""

__all__ = ["allocator", "device", "device_share", "distributed", "platform", "run_lock", "streams"]
