"""Decoding options. Does not import torch, so that a launcher validates a request quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from captionbeam.schemas.errors import expect
from captionbeam.schemas.fingerprint import from_spec, spec_of
from captionbeam.schemas.options import NATURAL, check_fields, number, one_of, option, text

CONVENTIONS = ("logit-division", "probability-power")
LEAST_TEMPERATURE = 1e-6
"""Of any draw: below it float32 runs over, and the likeliest are drawn all the same."""
LONGEST = 1_000  # maximum tokens of a caption
MOST_ROWS, MOST_DRAWS = 1_000, 100_000  # maximum parallel captions per image, for search and for sampling
ONLY_OF = {
    "beam": ("beam", "length_penalty", "length_formula", "beam_groups", "diversity"),
    "sample": ("temperature", "temperature_convention", "top_k", "top_p", "seed"),
}
"""The options that do something with one method only."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How captions are generated. Raises RequestError for an invalid value or combination."""

    GROUP = "caption generation"

    method: str = option(
        "beam",
        "greedy (the likeliest word at each step), beam (beam search) or sample (words drawn at random)",
        one_of("greedy", "beam", "sample"),
        common=True,
        role="rows",
    )
    beam: int = option(
        3,
        "beams of beam search (default: as the bundle was scored; 3 if that was greedy, or with --captioner)",
        number(1, MOST_ROWS, whole=True),
        common=True,
        role="rows",
    )
    n_best: int = option(
        1,
        "captions for each image, best first (at most --beam of beam search; 1 of greedy)",
        number(1, MOST_DRAWS, whole=True),
        common=True,
        role="rows",
    )
    temperature: float = option(
        1.0,
        "temperature of --method sample; its draws depend only on --seed, the image's id and the caption's number",
        number(LEAST_TEMPERATURE, 1 / LEAST_TEMPERATURE, unit="T"),
        role="rows",
    )
    top_k: int = option(
        0, "sample from the K likeliest words (0: all)", number(0, whole=True, unit="K"), role="rows"
    )
    top_p: float = option(
        1.0,
        "sample from the fewest words whose probabilities reach P (1: all)",
        number(0, 1, above=True, unit="P"),
        role="rows",
    )
    seed: int = option(0, "seed of --method sample", NATURAL, role="part")
    max_length: int | None = option(
        None,
        "longest caption in tokens, including start and end (default: the bundle's). A caption that reaches it ends "
        "with the end token and its log-probability",
        number(3, LONGEST, whole=True),
        role="rows",
    )
    prefix: str = option("", "words that every caption starts with", text("WORDS"), role="rows")
    allow_unk: bool = option(False, "allow the token for unknown words in captions", role="rows")
    keep_attention: bool = option(
        False,
        "store each word's attention over the grid (of a transformer: the last layer's mean over its heads)",
        common=True,
        role="rows",
    )
    length_penalty: float = option(
        0.0,
        "A of beam search, which ranks captions by log-probability / penalty: a higher A favours longer captions. The "
        "stored log-probability is the plain sum (default: as the bundle was scored; 0 if that was without one, or "
        "with --captioner)",
        number(0, 10, unit="A"),
        common=True,
        role="rows",
    )
    length_formula: str = option(
        "length",
        "penalty of a caption of n tokens, including prefix and end: length is n^A, as in Hugging Face transformers; "
        "gnmt is ((5 + n) / 6)^A (Wu et al. 2016, equation 14)",
        one_of("length", "gnmt"),
        role="rows",
    )
    no_repeat_ngram: int = option(
        0,
        "no sequence of N tokens occurs twice in a caption, including its prefix (0: no limit)",
        NATURAL,
        role="rows",
    )
    beam_groups: int = option(
        1,
        "diverse beam search (Vijayakumar et al. 2018): the beams are divided into G groups, each of which avoids the "
        "words of the groups before; --n-best takes the best of each group first",
        number(1, MOST_ROWS, whole=True, unit="G"),
        role="rows",
    )
    diversity: float = option(
        0.0,
        "of --beam-groups: what a word's log-probability loses for each caption of the groups before that has the word "
        "at the same step (their lambda, with Hamming diversity)",
        number(0, unit="LAMBDA"),
        role="rows",
    )
    temperature_convention: str = option(
        "logit-division",
        "logit-division draws from p^(1/T), so that T below 1 favours likely words; probability-power draws from p^T, "
        "so that T above 1 does",
        one_of(*CONVENTIONS),
        role="rows",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        most = self.captions_at_most()
        expect(
            most is None or self.n_best <= most, "n_best", self.n_best, f"at most {most} for {self.method}"
        )
        if self.method == "beam":
            even = self.beam % self.beam_groups == 0
            expect(even, "beam_groups", self.beam_groups, f"a divisor of the beam, {self.beam}")
            differ = self.beam_groups == 1 or self.diversity > 0
            expect(differ, "diversity", self.diversity, "above 0 for groups to differ")

    def captions_at_most(self) -> int | None:
        """Returns the maximum number of captions per image; None if unlimited."""
        return {"greedy": 1, "beam": self.beam}.get(self.method)

    @property
    def search(self) -> str:
        """The method with beams and length penalty, as text: ``beam 3, length penalty 1``."""
        if self.method != "beam":
            return self.method
        return f"beam {self.beam}" + (
            f", length penalty {self.length_penalty:g}" if self.length_penalty else ""
        )

    @property
    def rows(self) -> int:
        """Captions of one image that are generated in parallel."""
        return {"greedy": 1, "beam": self.beam}.get(self.method, self.n_best)

    @property
    def divisor(self) -> float:
        """The divisor of log-probabilities before words are drawn."""
        return self.temperature if self.temperature_convention == CONVENTIONS[0] else 1 / self.temperature

    def deciding(self) -> DecodeOptions:
        """Returns a copy whose options that the method does not use have their defaults."""
        unused = (name for method, names in ONLY_OF.items() if method != self.method for name in names)
        return replace(self, **{name: getattr(DecodeOptions, name) for name in unused})

    def to_dict(self) -> dict[str, Any]:
        """Returns the record of what determines a caption's words, so that equal captions have equal fingerprints."""
        return spec_of(self.deciding())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecodeOptions:
        """Returns the options that ``to_dict`` wrote. Raises RequestError."""
        return from_spec(cls, values)
