"""File formats of stores: Arrow schemas, Parquet and HDF5 data files, int8 features, components, the token table."""

__all__ = ["arrow", "components", "datafile", "int8", "parquet", "tokens"]
