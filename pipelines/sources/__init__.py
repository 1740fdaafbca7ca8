"""What can be listed, one file a kind: folders and globs, zips, tars, Parquet, lists of URIs, COCO."""
