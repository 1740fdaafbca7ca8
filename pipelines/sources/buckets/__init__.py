"""Buckets: their keys page by page, ranges of keys, inventory reports."""
