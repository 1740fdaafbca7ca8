"""The options of a decoder, for the config, training and the command line.

Does not import torch, so that a launcher validates a request quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from captionbeam.capmodel.generation.options import LEAST_TEMPERATURE
from captionbeam.schemas.errors import RequestError, expect
from captionbeam.schemas.options import CHANNELS, POSITIVE, check_fields, number, one_of, option, text

DROPOUT = number(0, 1, "at least 0 and below 1", "SHARE", below=True)


def parse_cutoffs(given: str) -> tuple[int, ...]:
    """Returns ``2000,10000`` as integers. Raises ValueError."""
    return tuple(int(part) for part in given.split(",") if given)


def _rises(given: str) -> bool:
    try:
        return all(a < b for a, b in pairwise((0, *parse_cutoffs(given))))
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """The user's choices for a decoder. Raises RequestError for an invalid value."""

    GROUP = "decoder"

    architecture: str = option(
        "attentive",
        "attentive: an LSTM that attends to the grid at each word (Xu et al. 2015); lstm: an LSTM that reads the image "
        "once (Vinyals et al. 2015); transformer: attention to the words so far and to the grid (Vaswani et al. 2017, "
        "pre-norm)",
        one_of("attentive", "lstm", "transformer"),
        common=True,
    )
    image_as: str = option(
        "first-input",
        "of lstm: the image is the first-input, or the start of cell and hidden state (start-state) or of the cell "
        "alone (start-cell)",
        one_of("first-input", "start-state", "start-cell"),
    )
    image_bottleneck: int | None = option(
        None, "of lstm: channels of a layer between the image and the LSTM (default: none)", CHANNELS
    )
    image_activation: str = option(
        "none", "of lstm: activation after each layer of the image, none or elu", one_of("none", "elu")
    )
    embed_dim: int = option(
        256,
        "channels of a word embedding, and of all layers of a transformer (with --embeddings those of the file)",
        CHANNELS,
        common=True,
    )
    hidden_dim: int = option(512, "channels of the LSTM's state", CHANNELS, common=True)
    attention_dim: int = option(256, "channels in which attention compares states and cells", CHANNELS)
    feature_dim: int = option(512, "channels of the projected grid", CHANNELS)
    attention: str = option(
        "additive",
        "additive (Bahdanau et al. 2015), dot, multi-head, hard (one cell, sampled in training) or sparsemax",
        one_of("additive", "dot", "multi-head", "hard", "sparsemax"),
        common=True,
    )
    heads: int = option(4, "heads of multi-head attention or of a transformer", POSITIVE)
    hard_temperature: float = option(
        1.0, "temperature of hard attention's samples (Gumbel-softmax)", number(LEAST_TEMPERATURE, unit="T")
    )
    gate: str = option(
        "vector",
        "the state's gate on the context: a value for each channel (vector), one for all (scalar: beta of Xu et al. "
        "2015, section 4.2.1) or none",
        one_of("vector", "scalar", "none"),
    )
    initial_state: str = option(
        "zeros",
        "of attentive: zeros, or mean: a tanh layer over the grid's mean (Xu et al. 2015, section 3.1.2)",
        one_of("zeros", "mean"),
    )
    doubly_stochastic: float = option(
        0.0,
        "lambda of Xu et al. 2015, equation 14: each cell's attention sums to 1 over a caption",
        number(0, unit="LAMBDA"),
    )
    layers: int = option(3, "layers of a transformer", POSITIVE, common=True)
    feedforward_dim: int | None = option(
        None, "channels inside a transformer's feed-forward networks (default: 4 times --embed-dim)", CHANNELS
    )
    positions: str = option(
        "sinusoidal",
        "position embeddings of a transformer: sinusoidal or learned",
        one_of("sinusoidal", "learned"),
    )
    output_layer: str = option(
        "full",
        "full: logits of all words; two-stage: through --output-bottleneck channels; adaptive: rare words in separate "
        "clusters (Grave et al. 2017)",
        one_of("full", "two-stage", "adaptive"),
    )
    output_bottleneck: int | None = option(None, "channels between the two stages of the output", CHANNELS)
    adaptive_cutoffs: str = option(
        "",
        "ids at which clusters of rarer words begin (default: 1/15 and 3/15 of the words)",
        text("ID,ID", "rising ids above 0, as in 2000,10000", _rises),
    )
    tie_embeddings: bool | None = option(
        None, "the output weights are the embeddings (default: wherever possible)"
    )
    dropout: float = option(
        0.5, "dropout on the output layer's input, or on each sublayer of a transformer", DROPOUT, common=True
    )
    embed_dropout: float | None = option(
        None, "dropout on word embeddings (default: that of --dropout)", DROPOUT
    )
    state_dropout: float | None = option(
        None, "dropout on the LSTM's states (default: that of --dropout)", DROPOUT
    )
    grid_dropout: float = option(0.1, "dropout on the projected grid, or on the features of lstm", DROPOUT)

    def __post_init__(self) -> None:
        self.check_decoder()

    def check_decoder(self) -> None:
        """Raises RequestError if a value is invalid, or does not fit the others."""
        check_fields(self)
        if self.architecture == "transformer":
            self._check_heads("embed_dim")
        elif self.architecture == "attentive" and self.attention == "multi-head":
            self._check_heads("attention_dim")
            self._check_heads("feature_dim")
        if self.architecture == "attentive" and self.attention == "hard":
            strength, soft = self.doubly_stochastic, "0 with hard attention, whose weights are not soft"
            expect(strength == 0, "doubly_stochastic", strength, soft)
        two = self.output_layer == "two-stage"
        size = self.output_bottleneck
        expect(not two or size is not None, "output_bottleneck", size, "a positive number with two stages")
        if self.tie_embeddings and not self._can_tie:
            layer = f"--output-layer is {self.output_layer}" + (f" of {size} channels" if two else "")
            raise RequestError(
                f"the embeddings of {self.embed_dim} channels cannot be tied where {layer}; expected "
                "--no-tie-embeddings, a full output layer, or one of two stages of as many channels"
            )

    def _check_heads(self, name: str) -> None:
        channels = getattr(self, name)
        expect(channels % self.heads == 0, name, channels, f"a multiple of {self.heads} heads")

    def uses(self, name: str) -> bool:
        """Whether the option has an effect, given the other options."""
        return is_of_use(name, vars(self))

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """``adaptive_cutoffs`` as integers."""
        return parse_cutoffs(self.adaptive_cutoffs)

    @property
    def _can_tie(self) -> bool:
        return self.output_layer == "full" or self.output_bottleneck == self.embed_dim

    @property
    def ties(self) -> bool:
        """Whether the output layer's weights are the embeddings."""
        return self._can_tie if self.tie_embeddings is None else self.tie_embeddings

    @property
    def feedforward(self) -> int:
        """Channels inside a transformer's feed-forward networks."""
        return 4 * self.embed_dim if self.feedforward_dim is None else self.feedforward_dim

    @property
    def words_dropped(self) -> float:
        """Dropout probability of word embeddings."""
        return self.dropout if self.embed_dropout is None else self.embed_dropout

    @property
    def states_dropped(self) -> float:
        """Dropout probability of the LSTM's states before the output layer."""
        return self.dropout if self.state_dropout is None else self.state_dropout

    def decoder(self) -> dict[str, Any]:
        """Returns the decoder's options by name."""
        return {name: getattr(self, name) for name in DECODER_FIELDS}


DECODER_FIELDS = tuple(field.name for field in fields(DecoderOptions))
_DEFAULTS = {field.name: field.default for field in fields(DecoderOptions)}


ONLY_WITH: dict[str, tuple[str, Sequence[str]]] = {
    **dict.fromkeys(("hidden_dim", "state_dropout"), ("architecture", ("attentive", "lstm"))),
    **dict.fromkeys(
        ("attention_dim", "feature_dim", "attention", "gate", "initial_state", "doubly_stochastic"),
        ("architecture", ("attentive",)),
    ),
    **dict.fromkeys(("image_as", "image_bottleneck", "image_activation"), ("architecture", ("lstm",))),
    **dict.fromkeys(("layers", "feedforward_dim", "positions"), ("architecture", ("transformer",))),
    "heads": ("attention", ("multi-head",)),
    "hard_temperature": ("attention", ("hard",)),
    "output_bottleneck": ("output_layer", ("two-stage",)),
    "adaptive_cutoffs": ("output_layer", ("adaptive",)),
}
"""Options that do nothing unless another one has one of these values."""


def is_of_use(name: str, chosen: Mapping[str, Any]) -> bool:
    """Whether a decoder's option has an effect, given the options in ``chosen``."""
    if name not in ONLY_WITH or (name == "heads" and chosen["architecture"] == "transformer"):
        return True
    decider, values = ONLY_WITH[name]
    return chosen[decider] in values and is_of_use(decider, chosen)
