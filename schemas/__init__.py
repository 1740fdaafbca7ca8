"""Data that is stored or passed between jobs: records, file formats, the store, the error tree."""

from captionbeam.schemas.store.reading import Store

__all__ = ["Store"]
