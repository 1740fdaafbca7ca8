"""The steps of a bulk run: find images, skip those that are done, compare with the store, plan shards, publish."""

__all__ = ["compare", "dedup", "find", "gates", "listing_record", "plan", "publish", "run", "skip"]
