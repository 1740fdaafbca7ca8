"""Feature rows as input: rows of a features store, and imported arrays (.npy, .npz, HDF5)."""

__all__ = ["array_files", "array_ids", "array_processor", "array_reads", "array_spec", "rows"]
