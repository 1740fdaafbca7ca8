"""Launching, watching and previewing a bulk job."""
