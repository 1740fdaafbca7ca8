"""Image bytes of references: files, HTTP, Parquet cells, byte ranges, and the address guard."""
