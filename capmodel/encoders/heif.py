"""HEIC and HEIF files by pillow-heif (the extra ``heif``), without adding them to Pillow's own formats."""

from pillow_heif import HeifImageFile

__all__ = ["HeifImageFile"]
