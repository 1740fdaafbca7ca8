"""Access to local disks and object stores: file operations, filesystem options, retries, create-if-absent."""

__all__ = ["files", "object_stores", "options", "retrying"]
