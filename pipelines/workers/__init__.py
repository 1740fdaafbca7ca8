"""Processes one shard on a worker: fetch, prepare, run the model in batches, write, commit."""

__all__ = [
    "batches",
    "boundary",
    "engine",
    "output",
    "processors",
    "progress_counter",
    "shards",
    "transforms",
]
