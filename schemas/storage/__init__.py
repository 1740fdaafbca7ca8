"""Access to local disks and object stores: file operations, filesystem options, retries, create-if-absent."""
