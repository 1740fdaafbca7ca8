"""Lists large buckets in parallel: pages of keys, ranges of keys, inventory reports."""
