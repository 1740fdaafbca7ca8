"""Hugging Face transformers (extra ``huggingface``): its models as captioners, and bundles as its models."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.captioner import (
        HuggingFaceCaptioner,
        HuggingFacePlan,
        resolve_captioner,
    )
    from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner, ChatPlan, resolve_chat
    from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, open_folder, stored_folder
    from captionbeam.capmodel.captioners.huggingface.modeling import BundleConfig, BundleForCaptioning

__all__ = ["BundleConfig", "BundleForCaptioning", "ChatCaptioner", "ChatPlan", "HuggingFaceCaptioner",
           "HuggingFacePlan", "ModelFolder", "open_folder", "resolve_captioner", "resolve_chat",
           "stored_folder"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    captioner="HuggingFaceCaptioner HuggingFacePlan resolve_captioner",
    chat="ChatCaptioner ChatPlan resolve_chat",
    folders="ModelFolder open_folder stored_folder",
    modeling="BundleConfig BundleForCaptioning",
)
