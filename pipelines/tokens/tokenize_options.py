"""Options of making a token table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from captionbeam.schemas.options import NATURAL, POSITIVE, check_fields, number, one_of, option


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
        """Returns the options that affect the result, with their defaults."""
        if self.kind == "bpe":
            own = {"merges": 4000 if self.merges is None else self.merges}
        else:
            own = {"min_count": 5 if self.min_count is None else self.min_count}
        return {"kind": self.kind, "max_length": self.max_length, **own}
