"""The Beam pipelines: find images, plan shards, encode, tokenize, caption, publish, and maintain stores."""

__all__ = [
    "bulk", "features", "fetch", "maintenance", "reduction", "runners", "sources", "tokens", "transforms", "workers",
]  # fmt: skip
