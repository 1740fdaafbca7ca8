"""Filesystems: file operations for local disks and any fsspec URL, options, retries, object stores."""
