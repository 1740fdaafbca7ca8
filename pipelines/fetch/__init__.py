"""Reads bytes at an address: files, HTTP, object stores; checks addresses from lists, and classifies errors."""

__all__ = ["address_guard", "byte_ranges", "errors", "reads", "urls"]
