"""What a worker does with a shard: fetch, prepare, run in batches, write, commit."""
