"""Processes one shard on a worker: fetch, prepare, run the model in batches, write, commit."""
