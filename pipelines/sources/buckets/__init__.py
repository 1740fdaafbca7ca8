"""Lists large buckets in parallel: pages of keys, ranges of keys, inventory reports."""

__all__ = ["inventory", "inventory_manifest", "key_pages", "key_ranges"]
