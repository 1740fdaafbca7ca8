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
    "attention": (
        str,
        "NAME",
        "additive (the default), dot, multi-head, hard (one cell, drawn) or sparsemax",
    ),
    "heads": (positive, "N", "of multi-head attention"),
    "hard_temperature": (float, "T", "of hard attention's draws (Gumbel-softmax)"),
    "gate": (str, "NAME", "of what was attended to: vector (the default), scalar (Xu et al.'s beta) or none"),
    "doubly_stochastic": (
        float,
        "LAMBDA",
        "weight of Xu et al.'s regulariser: each cell's attention sums to 1",
    ),
    "dropout": (share, "SHARE", "of the words and of the output"),
    "grid_dropout": (share, "SHARE", "of the projected grid"),
}
