"""Formats of files in stores: Arrow schemas, Parquet, HDF5, int8, components, the token table."""
