"""Lists the images of a source: folders and globs, buckets, zips, tars, Parquet, lists of URIs, COCO annotations."""

__all__ = [
    "access",
    "buckets",
    "errors",
    "listing",
    "lists",
    "parquet",
    "parse",
    "spec",
    "stores",
    "tars",
    "zips",
]
