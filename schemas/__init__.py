"""What lies on disk and travels between jobs: records, Arrow schemas, the HDF5 layout, the store, the error tree."""

from captionbeam.schemas.store.reading import Store

__all__ = ["Store"]
