"""The process environment: devices, threads, platform, locks and distributed processes."""
