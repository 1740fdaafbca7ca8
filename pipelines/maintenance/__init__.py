"""Maintains a store: history, verification, exports, purging, compaction, vacuum. It uses neither Beam nor torch."""

__all__ = ["compact", "export", "history", "purge", "retry_failures", "vacuum", "verify"]
