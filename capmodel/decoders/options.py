"""What may be chosen of a decoder: said here once, for the config, for training and for the command line.

No torch here, so that a launcher checks a request in no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from schemas.errors import RequestError

ARCHITECTURES = ("attentive",)
ALWAYS_SAID = ("embed_dim", "hidden_dim", "attention_dim", "feature_dim", "dropout", "grid_dropout")


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """Raises RequestError where a value makes no sense.

    architecture:  attentive: an LSTM that attends to the grid at each word (Xu et al. 2015).
    embed_dim:     E: channels of a word's embedding; hidden_dim: H: those of the LSTM's state.
    attention_dim: A: those in which states and cells are compared.
    feature_dim:   F: those of the projected grid.
    dropout:       of the words and of the output; grid_dropout: of the projected grid.
    """

    architecture: str = "attentive"
    embed_dim: int = 256
    hidden_dim: int = 512
    attention_dim: int = 256
    feature_dim: int = 512
    dropout: float = 0.5
    grid_dropout: float = 0.1

    def __post_init__(self) -> None:
        self.check_decoder()

    def check_decoder(self) -> None:
        """Raise RequestError where the decoder's options make no sense."""
        expect_one_of(ARCHITECTURES, "architecture", self.architecture)
        for name in ("embed_dim", "hidden_dim", "attention_dim", "feature_dim"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive number")
        for name in ("dropout", "grid_dropout"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")

    def decoder(self) -> dict[str, Any]:
        """The decoder's options, by name."""
        return {name: getattr(self, name) for name in DECODER_FIELDS}


DECODER_FIELDS = tuple(option.name for option in fields(DecoderOptions))
_DEFAULTS = {option.name: option.default for option in fields(DecoderOptions)}


def is_said(name: str, value: object) -> bool:
    """Whether a record names the option: those of the first version always, later ones where they are chosen.

    So what was recorded before an option existed is what its default records.
    """
    return name in ALWAYS_SAID or name not in _DEFAULTS or value != _DEFAULTS[name]


def expect(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise RequestError unless it ``holds``."""
    if not holds:
        raise RequestError(f"{name.replace('_', '-')} is {value!r}; expected {expected}")


def expect_one_of(choices: Sequence[str], name: str, value: object) -> None:
    """Raise RequestError unless ``value`` is one of ``choices``."""
    expect(value in choices, name, value, f"one of {', '.join(choices)}")
