"""Everything that is stored on disk or passed between jobs: records, file formats, the store layout, the error
tree.
"""

from captionbeam.schemas.store.reading import Store

__all__ = ["Store"]
