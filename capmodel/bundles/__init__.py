"""Bundles: a trained captioner in one folder, saved and loaded without pickle."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.bundles.bundle import Bundle
    from captionbeam.capmodel.bundles.contents import Manifest, read_checked, read_manifest, store_bundle

__all__ = ["Bundle", "Manifest", "read_checked", "read_manifest", "store_bundle"]

__getattr__ = lazy_names(
    __name__, bundle="Bundle", contents="Manifest read_checked read_manifest store_bundle"
)
