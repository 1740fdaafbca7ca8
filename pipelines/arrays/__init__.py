"""Arrays of features made elsewhere: .npy, .npz and HDF5, whose rows become rows of a features store."""
