"""Command-line flags of a decoder: the fields of capmodel.decoders.DecoderOptions, with their help texts."""

from __future__ import annotations

from typing import Any

from captionbeam.jobs.options.shared import channels, positive, share

EMBEDDING_FLAGS: dict[str, tuple[Any, str, str]] = {
    "embeddings": (
        str,
        "FILE",
        "word vectors to begin with, in word2vec's or fastText's text format, .gz or not",
    ),
    "freeze_embeddings": (bool, "", "keep the file's vectors as they are; words that it lacks learn"),
}
"""Of a training run, not of a decoder: what its words begin with."""

DECODER_FLAGS: dict[str, tuple[Any, str, str]] = {
    "architecture": (
        str,
        "NAME",
        "attentive: an LSTM that attends to the grid at each word (default); lstm: told the image once; transformer",
    ),
    "image_as": (
        str,
        "NAME",
        "of lstm: first-input (the default), start-state (hidden and cell) or start-cell",
    ),
    "image_bottleneck": (channels, "N", "of lstm: channels that the image passes on its way (default: none)"),
    "image_activation": (str, "NAME", "of lstm: after each of the image's layers, none (the default) or elu"),
    "embed_dim": (
        channels,
        "N",
        "word embedding (with --embeddings the file's); all channels of a transformer",
    ),
    "hidden_dim": (channels, "N", "LSTM state"),
    "attention_dim": (channels, "N", "attention"),
    "feature_dim": (channels, "N", "grid features after their projection"),
    "attention": (
        str,
        "NAME",
        "additive (the default), dot, multi-head, hard (one cell, drawn) or sparsemax",
    ),
    "heads": (positive, "N", "of multi-head attention and of a transformer"),
    "hard_temperature": (float, "T", "of hard attention's draws (Gumbel-softmax)"),
    "gate": (str, "NAME", "of what was attended to: vector (the default), scalar (Xu et al.'s beta) or none"),
    "initial_state": (
        str,
        "NAME",
        "of attentive: zeros (the default), or mean: a layer over the grid's mean (Xu et al.)",
    ),
    "doubly_stochastic": (
        float,
        "LAMBDA",
        "weight of Xu et al.'s regulariser: each cell's attention sums to 1",
    ),
    "layers": (positive, "N", "of a transformer"),
    "feedforward_dim": (channels, "N", "inside a transformer's layers (default: 4 times the word embedding)"),
    "positions": (str, "NAME", "of words in a transformer: sinusoidal (the default) or learned"),
    "output_layer": (
        str,
        "NAME",
        "full (the default), two-stage (through a bottleneck) or adaptive (softmax of rare words by clusters)",
    ),
    "output_bottleneck": (channels, "N", "channels between the two stages of the output"),
    "adaptive_cutoffs": (
        str,
        "ID,ID",
        "where clusters of rarer words begin (default: 1/15 and 3/15 of the words)",
    ),
    "tie_embeddings": (bool, "", "output weights are the embeddings (default: wherever they can be)"),
    "dropout": (
        share,
        "SHARE",
        "of what the output sees (of a transformer's sublayers), and where the next two say nothing",
    ),
    "embed_dropout": (share, "SHARE", "of the words"),
    "state_dropout": (share, "SHARE", "of the LSTM's state on its way to the output"),
    "grid_dropout": (share, "SHARE", "of the projected grid, or of lstm's features"),
}
