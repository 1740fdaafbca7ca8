"""The complete configuration of a decoder. Does not import torch, so launchers can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from captionbeam.capmodel.decoders.options import DecoderOptions
from captionbeam.capmodel.tokenizers import Tokenizer
from captionbeam.schemas.errors import RequestError, expect
from captionbeam.schemas.fingerprint import from_spec, spec_of

ADAPTIVE_SHARE = 4  # Grave et al. 2017, section 4.3


@dataclass(frozen=True)
class DecoderConfig(DecoderOptions):
    """The decoder's options, vocabulary and input shape. Raises RequestError for an invalid value.

    ``feature_shape`` is that of one image's features: ``(H, W, C)`` for a grid, ``(C,)`` for pooled ones.
    ``max_length`` counts START and END, as the tokenizer's does.
    """

    vocab_size: int
    feature_shape: tuple[int, ...]
    max_length: int = 64
    pad: int = 0
    unk: int = 1
    start: int = 2
    end: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature_shape", tuple(int(size) for size in self.feature_shape))
        self.check_decoder()
        shape = self.feature_shape
        expect(self.vocab_size >= 1, "vocab_size", self.vocab_size, "a positive number")
        expect(len(shape) in (1, 3) and min(shape) >= 1, "feature_shape", shape, "[H, W, C] or [C]")
        expect(self.max_length >= 3, "max_length", self.max_length, "3 or more (START, a token, END)")
        specials = (self.pad, self.unk, self.start, self.end)
        known = len(set(specials)) == 4 and set(specials) <= set(range(self.vocab_size))
        expect(known, "pad, unk, start, end", specials, f"four ids of a vocabulary of {self.vocab_size}")
        self._check_clusters()

    def _check_clusters(self) -> None:
        last, thinnest = self.cutoffs[-1], self.output_width // ADAPTIVE_SHARE ** len(self.cutoffs)
        if self.output_layer == "adaptive":
            expect(last < self.vocab_size, "adaptive_cutoffs", last, f"less than the {self.vocab_size} words")
            share = f"fewer clusters: each has a {ADAPTIVE_SHARE}th of the channels of the one before"
            expect(thinnest >= 1, "adaptive_cutoffs", self.cutoffs, f"{share}, at first {self.output_width}")

    @property
    def output_width(self) -> int:
        """D: input channels of the output layer."""
        return self.embed_dim if self.attends or self.projects_state else self.hidden_dim

    @property
    def projects_state(self) -> bool:
        """Whether the LSTM's state is projected to an embedding because the embeddings are the output weights."""
        return self.architecture == "lstm" and self.output_layer == "full" and self.ties

    @classmethod
    def fit(
        cls, options: DecoderOptions, feature_shape: tuple[int, ...], tokenizer: Tokenizer
    ) -> DecoderConfig:
        """Returns the config of ``options`` for the given features and tokenizer. Raises RequestError."""
        if options.output_layer == "adaptive" and tokenizer.kind == "bpe":
            raise RequestError(
                "output-layer is adaptive, which needs ids that fall in frequency, and those of byte pairs do not; "
                "expected tokens of whole words (tokenize --kind words)"
            )
        ids = {name: getattr(tokenizer, name) for name in ("pad", "unk", "start", "end")}
        chosen = {**options.decoder(), **ids, "max_length": tokenizer.max_length}
        return cls(tokenizer.vocab_size, feature_shape, **chosen)

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """First ids of the rare-word clusters; without ``adaptive_cutoffs`` at 1/15 and 3/15 of the vocabulary."""
        fifteenth = max(1, round(self.vocab_size / 15))  # as in torch's AdaptiveLogSoftmaxWithLoss example
        return super().cutoffs or (fifteenth, 3 * fifteenth)

    @property
    def channels(self) -> int:
        """C: channels of the encoder's features."""
        return self.feature_shape[-1]

    @property
    def cells(self) -> int:
        """L: cells of the grid; 1 for pooled features."""
        return self.feature_shape[0] * self.feature_shape[1] if len(self.feature_shape) == 3 else 1

    @property
    def attends(self) -> bool:
        """Whether each decoding step returns weights over the grid's cells."""
        return self.architecture in ("attentive", "transformer")

    @property
    def longest(self) -> int | None:
        """Maximum number of tokens in a caption, including START and END; None if unlimited."""
        learned = self.architecture == "transformer" and self.positions == "learned"
        return self.max_length if learned else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the record, which ``from_dict`` reads."""
        return spec_of(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecoderConfig:
        """Returns the config that ``to_dict`` wrote. Raises RequestError."""
        return from_spec(cls, values)
