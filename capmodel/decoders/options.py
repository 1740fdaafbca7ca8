"""The options of a decoder, declared once for the config, training and the command line.

Does not import torch, so that a launcher validates a request quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf
from typing import Any

from captionbeam.capmodel.generation.options import LEAST_TEMPERATURE
from captionbeam.schemas.errors import RequestError, expect, flag

ARCHITECTURES = ("attentive", "lstm", "transformer")
IMAGE_ROLES = ("first-input", "start-state", "start-cell")
ACTIVATIONS = ("none", "elu")
ATTENTIONS = ("additive", "dot", "multi-head", "hard", "sparsemax")
OUTPUTS = ("full", "two-stage", "adaptive")
POSITIONS = ("sinusoidal", "learned")
GATES = ("vector", "scalar", "none")
INITIAL_STATES = ("zeros", "mean")
_SIZES = (
    *("embed_dim", "hidden_dim", "attention_dim", "feature_dim", "heads", "image_bottleneck"),
    *("layers", "feedforward_dim"),
)


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """The user's choices for a decoder. Raises RequestError for an invalid value.

    architecture:  attentive: an LSTM that attends to the grid at each word (Xu et al. 2015); lstm: an LSTM that reads
                   the image once (Vinyals et al. 2015); transformer: attention to previous words and to the
                   grid (Vaswani et al. 2017, pre-norm).
    image_as:      how lstm reads the image: as its first-input, as the start of its cell and hidden state
                   (start-state), or of the cell alone (start-cell). ``image_bottleneck``: channels of an optional
                   layer in between. ``image_activation`` (none or elu) follows each image layer.
    embed_dim:     E: channels of a word embedding, and of all transformer layers.
    hidden_dim:    H: channels of the LSTM's state.
    attention_dim: A: channels in which states and cells are compared.
    feature_dim:   F: channels of the projected grid.
    attention:     additive (Bahdanau et al. 2015), dot, multi-head, hard (one cell, sampled in training), sparsemax.
    heads:         number of heads of multi-head attention or of a transformer.
    hard_temperature: Gumbel-softmax temperature of hard attention.
    gate:          the state's gate on the context: one value per channel (vector), one for all channels (scalar: the
                   beta of Xu et al. 2015, section 4.2.1), or no gate (none).
    initial_state: zeros, or a tanh layer over the grid's mean (mean; Xu et al. 2015, section 3.1.2).
    doubly_stochastic: lambda of Xu et al. 2015, equation 14: pulls each cell's weights to a sum of 1 over a caption.
    layers:        number of transformer layers.
    feedforward_dim: channels inside a transformer's feed-forward networks; None: four times ``embed_dim``.
    positions:     position embeddings of a transformer: sinusoidal, or learned up to the maximum length.
    output_layer:  full: logits of all words; two-stage: through ``output_bottleneck`` channels; adaptive: rare words
                   in separate clusters (Grave et al. 2017), which start at the ids ``adaptive_cutoffs``.
    tie_embeddings: whether the output weights are the embeddings; None: wherever possible.
    dropout:       on the output layer's input, or on each sublayer of a transformer.
    embed_dropout, state_dropout: on word embeddings and on the LSTM's states; None: the same as ``dropout``.
    grid_dropout:  on the projected grid, or on lstm's features.
    """

    architecture: str = "attentive"
    image_as: str = "first-input"
    image_bottleneck: int | None = None
    image_activation: str = "none"
    embed_dim: int = 256
    hidden_dim: int = 512
    attention_dim: int = 256
    feature_dim: int = 512
    attention: str = "additive"
    heads: int = 4
    hard_temperature: float = 1.0
    gate: str = "vector"
    initial_state: str = "zeros"
    doubly_stochastic: float = 0.0
    layers: int = 3
    feedforward_dim: int | None = None
    positions: str = "sinusoidal"
    output_layer: str = "full"
    output_bottleneck: int | None = None
    adaptive_cutoffs: str = ""
    tie_embeddings: bool | None = None
    dropout: float = 0.5
    embed_dropout: float | None = None
    state_dropout: float | None = None
    grid_dropout: float = 0.1

    def __post_init__(self) -> None:
        self.check_decoder()

    def check_decoder(self) -> None:
        """Raises RequestError if the decoder's options are invalid."""
        expect_one_of(ARCHITECTURES, "architecture", self.architecture)
        expect_one_of(IMAGE_ROLES, "image_as", self.image_as)
        expect_one_of(ACTIVATIONS, "image_activation", self.image_activation)
        for name in _SIZES:
            value = getattr(self, name)
            expect(value is None or value >= 1, name, value, "a positive number")
        for name in ("dropout", "embed_dropout", "state_dropout", "grid_dropout"):
            value = getattr(self, name)
            expect(value is None or 0 <= value < 1, name, value, "at least 0 and below 1")
        for name in ONLY_WITH:
            self._check_of_use(name)
        self._check_attention()
        self._check_transformer()
        self._check_output()

    def _check_of_use(self, name: str) -> None:
        chosen = getattr(self, name)
        if chosen != _DEFAULTS[name] and not self.uses(name):
            decider, values = ONLY_WITH[name]
            raise RequestError(
                f"{flag(name)} is {chosen!r}, which does nothing where {flag(decider)} is {getattr(self, decider)}; "
                f"expected to leave it out, or {flag(decider)} {' or '.join(values)}"
            )

    def uses(self, name: str) -> bool:
        """Whether the option has an effect, given the other options."""
        return is_of_use(name, vars(self))

    def _check_attention(self) -> None:
        expect_one_of(ATTENTIONS, "attention", self.attention)
        expect_one_of(GATES, "gate", self.gate)
        expect_one_of(INITIAL_STATES, "initial_state", self.initial_state)
        temperature, strength = self.hard_temperature, self.doubly_stochastic
        warm = LEAST_TEMPERATURE <= temperature < inf
        expect(warm, "hard_temperature", temperature, f"a number above 0, {LEAST_TEMPERATURE} or more")
        expect(0 <= strength < inf, "doubly_stochastic", strength, "a number of 0 or more")
        if self.attention == "multi-head":
            for name in ("attention_dim", "feature_dim"):
                channels = getattr(self, name)
                expect(channels % self.heads == 0, name, channels, f"a multiple of {self.heads} heads")
        if self.attention == "hard":
            soft = "0 with hard attention, whose weights are not soft"
            expect(strength == 0, "doubly_stochastic", strength, soft)

    def _check_transformer(self) -> None:
        expect_one_of(POSITIONS, "positions", self.positions)
        if self.architecture == "transformer":
            heads = f"a multiple of {self.heads} heads"
            expect(self.embed_dim % self.heads == 0, "embed_dim", self.embed_dim, heads)

    def _check_output(self) -> None:
        expect_one_of(OUTPUTS, "output_layer", self.output_layer)
        size, two = self.output_bottleneck, self.output_layer == "two-stage"
        expect(not two or (size or 0) >= 1, "output_bottleneck", size, "a positive number with two stages")
        rising = all(a < b for a, b in pairwise((0, *self.cutoffs)))
        expect(rising, "adaptive_cutoffs", self.adaptive_cutoffs, "rising ids above 0, as in 2000,10000")
        if self.tie_embeddings:
            layer = f"output-layer is {self.output_layer}" + (f" of {size} channels" if two else "")
            if not self._can_tie:
                raise RequestError(
                    f"the embeddings of {self.embed_dim} channels cannot be tied where {layer}; expected "
                    "--no-tie-embeddings, a full output layer, or one of two stages of as many channels"
                )

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """``adaptive_cutoffs`` as integers. Raises RequestError."""
        try:
            return tuple(int(part) for part in self.adaptive_cutoffs.split(",") if self.adaptive_cutoffs)
        except ValueError as err:
            raise RequestError(
                f"adaptive-cutoffs is {self.adaptive_cutoffs!r}; expected ids, as in 2000,10000"
            ) from err

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


DECODER_FIELDS = tuple(option.name for option in fields(DecoderOptions))
_DEFAULTS = {option.name: option.default for option in fields(DecoderOptions)}


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


def expect_one_of(choices: Sequence[str], name: str, value: object) -> None:
    """Raises RequestError unless ``value`` is one of ``choices``."""
    expect(value in choices, name, value, f"one of {', '.join(choices)}")
