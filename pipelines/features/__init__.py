"""Rows of features: those of a store, and arrays made elsewhere (.npy, .npz, HDF5)."""
