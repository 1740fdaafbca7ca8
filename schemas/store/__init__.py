"""Stores on disk: the layout, reading a snapshot, tags, and records of workers."""
