"""What a process runs on: devices, streams, the platform, distributed processes."""
