"""The images of a source, and their bytes: folders, globs, buckets, zips, tars, Parquet, lists of URIs, COCO."""

__all__ = [
    "access",
    "buckets",
    "images",
    "listing",
    "lists",
    "parquet",
    "parse",
    "spec",
    "stores",
    "tars",
    "zips",
]
