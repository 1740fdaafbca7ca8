"""Reads the bytes of images: files, HTTP, byte ranges of archives, Parquet cells; checks addresses from lists."""

__all__ = ["address_guard", "byte_ranges", "images", "reads"]
