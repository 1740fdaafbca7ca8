"""Decoding options. Does not import torch, so that a launcher validates a request quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from captionbeam.schemas.errors import expect
from captionbeam.schemas.fingerprint import from_spec, spec_of

METHODS = ("greedy", "beam", "sample")
FORMULAS = ("length", "gnmt")
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


@dataclass(frozen=True)
class DecodeOptions:
    """How captions are generated. Raises RequestError for an invalid value or combination.

    method:          ``greedy`` takes the most likely word; ``beam`` keeps the ``beam`` most likely beginnings;
                     ``sample`` draws words.
    n_best:          captions per image, best first (at most ``beam``; 1 for greedy).
    temperature:     of sampling; its effect depends on the convention.
    top_k, top_p:    sampling draws from the ``top_k`` most likely words (0: all), and of those from the fewest
                     whose probabilities reach ``top_p`` (1: all).
    seed:            sample i of an image depends only on (seed, image_id, i).
    max_length:      maximum tokens of a caption, including START and END; None: the model's. A caption that reaches it
                     is closed: its last token is END, with END's log-probability.
    prefix:          words that every caption starts with.
    allow_unk:       whether UNK may be generated. PAD and START never are.
    keep_attention:  whether captions include their attention weights.
    length_penalty:  A of beam search, which ranks captions by log-probability / penalty: a higher A favours longer
                     captions; 0: no penalty.
    length_formula:  the penalty of a caption of ``n`` tokens, including prefix and END: ``length`` is n^A, as in
                     Hugging Face transformers; ``gnmt`` is ((5 + n) / 6)^A (Wu et al. 2016, equation 14).
    no_repeat_ngram: no sequence of N tokens occurs twice in a caption, including its prefix; 0: no limit.
    beam_groups:     groups of ``beam / beam_groups`` beams that avoid each other's words (Vijayakumar et al. 2018).
    diversity:       penalty on a word's log-probability for each caption of the previous groups that took the word
                     at the same step (their lambda, Hamming diversity).
    temperature_convention: ``logit-division`` draws from p^(1/t), so t < 1 favours likely words;
                     ``probability-power`` draws from p^t, so t > 1 favours likely words.
    """

    method: str = "beam"
    beam: int = 3
    n_best: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_length: int | None = None
    prefix: str = ""
    allow_unk: bool = False
    keep_attention: bool = False
    length_penalty: float = 0.0
    length_formula: str = "length"
    no_repeat_ngram: int = 0
    beam_groups: int = 1
    diversity: float = 0.0
    temperature_convention: str = "logit-division"

    def __post_init__(self) -> None:
        expect(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        expect(1 <= self.beam <= MOST_ROWS, "beam", self.beam, f"from 1 to {MOST_ROWS:,}")
        most = self.captions_at_most()
        expect(1 <= self.n_best <= MOST_DRAWS, "n_best", self.n_best, f"from 1 to {MOST_DRAWS:,}")
        expect(
            most is None or self.n_best <= most, "n_best", self.n_best, f"at most {most} for {self.method}"
        )
        fits = self.max_length is None or 3 <= self.max_length <= LONGEST
        expect(fits, "max_length", self.max_length, f"from 3 (START, a token, END) to {LONGEST:,}")
        expect(self.no_repeat_ngram >= 0, "no_repeat_ngram", self.no_repeat_ngram, "0 (may repeat) or more")
        self._check_sampling()
        if self.method == "beam":
            self._check_penalty()
            self._check_groups()

    def _check_sampling(self) -> None:
        bounds = f"a number above 0, from {LEAST_TEMPERATURE} to {1 / LEAST_TEMPERATURE:,.0f}"
        warm = LEAST_TEMPERATURE <= self.temperature <= 1 / LEAST_TEMPERATURE
        greedy = "method greedy takes the likeliest words"
        expect(warm, "temperature", self.temperature, f"{bounds} ({greedy})")
        convention = self.temperature_convention
        known = convention in CONVENTIONS
        expect(known, "temperature_convention", convention, f"one of {', '.join(CONVENTIONS)}")
        idle = self.method == "sample" and self.temperature == 1 and convention != CONVENTIONS[0]
        expect(not idle, "temperature_convention", convention, "a temperature other than 1 with it")
        expect(self.top_k >= 0, "top_k", self.top_k, "0 (all words) or more")
        expect(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")

    def _check_penalty(self) -> None:
        power, formula = self.length_penalty, self.length_formula
        expect(0 <= power <= 10, "length_penalty", power, "from 0 to 10")
        expect(formula in FORMULAS, "length_formula", formula, f"one of {', '.join(FORMULAS)}")
        idle = not power and formula != FORMULAS[0]
        expect(not idle, "length_formula", formula, "a length-penalty other than 0 with it")
        idle = bool(power) and self.beam == self.beam_groups
        expect(not idle, "length_penalty", power, "beams of 2 or more, as 1 ranks nothing")

    def _check_groups(self) -> None:
        groups, diversity = self.beam_groups, self.diversity
        even = groups >= 1 and self.beam % groups == 0
        expect(even, "beam_groups", groups, f"a divisor of the beam, {self.beam}")
        expect(0 <= diversity < float("inf"), "diversity", diversity, "0 or more")
        expect(groups == 1 or diversity > 0, "diversity", diversity, "above 0 for groups to differ")
        expect(groups > 1 or diversity == 0, "diversity", diversity, "beam-groups of 2 or more with it")

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
