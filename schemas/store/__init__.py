"""The store on disk: its layout, reading snapshots, tags, model files, and records of worker processes."""
