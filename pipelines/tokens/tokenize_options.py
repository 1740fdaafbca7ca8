"""Options of making a token table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from captionbeam.schemas.options import NATURAL, POSITIVE, check_fields, number, one_of, option

DEFAULTS = {"kind": "bpe", "max_length": 64, "merges": 4000, "min_count": 5}


@dataclass(frozen=True)
class TokenizeOptions:
    """How captions become token ids. Raises RequestError for an invalid value."""

    GROUP = "tokenizer"

    kind: str = option(
        "bpe",
        "bpe: byte pair encoding; words: lower-case words without punctuation; whitespace: words as written",
        one_of("bpe", "words", "whitespace"),
    )
    max_length: int = option(
        64,
        "most tokens of a caption, including START and END; longer captions are cut",
        number(3, whole=True, expected="a whole number of 3 or more (START, a token, END)"),
    )
    merges: int | None = option(None, "merges that bpe learns (default 4000)", NATURAL)
    min_count: int | None = option(
        None, "with words and whitespace: words that are rarer become UNK (default 5)", POSITIVE
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if after := getattr(super(), "__post_init__", None):
            after()

    def spec(self) -> dict[str, Any]:
        """Returns the record of the options that affect the result."""
        own = self.learning()
        return {name: value for name, value in own.items() if value != DEFAULTS[name]}

    def learning(self) -> dict[str, Any]:
        """Returns the arguments of ``learn_tokenizer``."""
        size = "merges" if self.kind == "bpe" else "min_count"
        given = getattr(self, size)
        return {
            "kind": self.kind,
            "max_length": self.max_length,
            size: DEFAULTS[size] if given is None else given,
        }
