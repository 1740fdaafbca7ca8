"""What a process runs on: device, precision, threads, process group, platform, lock of a run."""

__all__ = ["device", "device_share", "distributed", "platform", "run_lock", "streams"]
