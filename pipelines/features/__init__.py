"""Feature rows as input: rows of a features store, and imported arrays (.npy, .npz, HDF5)."""
