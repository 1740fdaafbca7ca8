"""What a process runs on: device, precision, threads, process group, platform, lock of a run."""

__all__ = ["device", "distributed", "platform", "run_lock", "streams"]
