"""What lies on disk and travels between jobs: records, Arrow schemas, the HDF5 layout, the store, the error tree."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captionbeam.schemas.store.reading import Store

__all__ = ["Store"]


def __getattr__(name: str) -> Any:
    """Imports ``Store`` at its first use: threads that import modules below at once would meet a half-made package."""
    if name == "Store":
        from captionbeam.schemas.store.reading import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
