"""Maintains a store: history, verification, exports, purging, compaction, vacuum. It uses neither Beam nor torch."""
