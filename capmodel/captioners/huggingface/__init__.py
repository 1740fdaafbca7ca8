"""Hugging Face transformers (extra ``huggingface``): its captioners and scorers, and bundles as its models."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.captioner import (
        HuggingFaceCaptioner,
        HuggingFacePlan,
        resolve_captioner,
    )
    from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner
    from captionbeam.capmodel.captioners.huggingface.chat_plan import ChatPlan, resolve_chat
    from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, open_folder, stored_folder
    from captionbeam.capmodel.captioners.huggingface.modeling import BundleConfig, BundleForCaptioning
    from captionbeam.capmodel.captioners.huggingface.scorer import Scorer, ScorerPlan, resolve_scorer

__all__ = ["BundleConfig", "BundleForCaptioning", "ChatCaptioner", "ChatPlan", "HuggingFaceCaptioner",
           "HuggingFacePlan", "ModelFolder", "Scorer", "ScorerPlan", "open_folder", "resolve_captioner",
           "resolve_chat", "resolve_scorer", "stored_folder"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    captioner="HuggingFaceCaptioner HuggingFacePlan resolve_captioner",
    chat="ChatCaptioner",
    chat_plan="ChatPlan resolve_chat",
    folders="ModelFolder open_folder stored_folder",
    modeling="BundleConfig BundleForCaptioning",
    scorer="Scorer ScorerPlan resolve_scorer",
)
