"""The store on disk: its layout, reading snapshots, tags, model files, and records of worker processes."""

__all__ = ["layout", "models", "reading", "rows", "tags", "workers"]
