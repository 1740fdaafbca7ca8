"""Captioners: processors that map images, or stored features, to captions on workers.

``captioner`` runs bundles; ``huggingface`` runs models of transformers.
"""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.base import BatchCaptioner, CaptionPlan
    from captionbeam.capmodel.captioners.captioner import BundlePlan, Captioner, resolve_captioner

__all__ = ["BatchCaptioner", "BundlePlan", "CaptionPlan", "Captioner", "resolve_captioner"]

__getattr__ = lazy_names(
    __name__, base="BatchCaptioner CaptionPlan", captioner="BundlePlan Captioner resolve_captioner"
)
