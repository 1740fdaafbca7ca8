"""Lists the images of a source: folders and globs, buckets, zips, tars, Parquet, lists of URIs, COCO annotations."""
