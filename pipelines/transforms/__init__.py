"""Beam transforms for pipelines of your own: find images, encode and caption them, read features. On any runner.

Workers import captionbeam and nothing of the pipeline's own. They load weights and bundles from a folder that all of
them reach (``models``), to which they are copied when the transform is applied.
"""

from captionbeam.pipelines.bulk.find import FindImages
from captionbeam.pipelines.sources.spec import SourceOptions
from captionbeam.pipelines.transforms.elements import Caption, ImageCaptions, ImageFeatures, Outputs
from captionbeam.pipelines.transforms.images import CaptionFeatures, CaptionImages, EncodeImages, PromptImages
from captionbeam.pipelines.transforms.stores import ReadFeatures
from captionbeam.schemas.records import Failure, ImageRef

__all__ = [
    "Caption",
    "CaptionFeatures",
    "CaptionImages",
    "EncodeImages",
    "Failure",
    "FindImages",
    "ImageCaptions",
    "ImageFeatures",
    "ImageRef",
    "Outputs",
    "PromptImages",
    "ReadFeatures",
    "SourceOptions",
]
