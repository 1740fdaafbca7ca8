"""The flags of a decoder: what capmodel.decoders.DecoderOptions has, in the order and the words of the help."""

from __future__ import annotations

from typing import Any

from jobs.options import positive, share

DECODER_FLAGS: dict[str, tuple[Any, str, str]] = {
    "architecture": (str, "NAME", "attentive: an LSTM that attends to the grid at each word (the default)"),
    "embed_dim": (positive, "N", "word embedding"),
    "hidden_dim": (positive, "N", "LSTM state"),
    "attention_dim": (positive, "N", "attention"),
    "feature_dim": (positive, "N", "grid features after their projection"),
    "dropout": (share, "SHARE", "of the words and of the output"),
    "grid_dropout": (share, "SHARE", "of the projected grid"),
}
