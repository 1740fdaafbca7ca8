"""Image encoders: decoding, preprocessing, weights, backbone networks and feature reduction."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec, resolve_encoder
    from captionbeam.capmodel.encoders.feature_plan import FeaturePlan, resolve_features
    from captionbeam.capmodel.encoders.images import decode_image
    from captionbeam.capmodel.encoders.names import ENCODERS, encoder_choices
    from captionbeam.capmodel.encoders.preprocess import Preprocess
    from captionbeam.capmodel.encoders.reduction import FeatureEncoder, FeatureReducer, Reducer
    from captionbeam.capmodel.encoders.weights import read_weights, store_weights

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "FeatureEncoder", "FeaturePlan", "FeatureReducer",
           "Preprocess", "Reducer", "decode_image", "encoder_choices", "read_weights", "resolve_encoder",
           "resolve_features", "store_weights"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    encoder="Encoder EncoderSpec resolve_encoder",
    feature_plan="FeaturePlan resolve_features",
    images="decode_image",
    names="ENCODERS encoder_choices",
    preprocess="Preprocess",
    reduction="FeatureEncoder FeatureReducer Reducer",
    weights="read_weights store_weights",
)
