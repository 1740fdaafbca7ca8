"""What a caption run may choose. No torch here, so that a launcher checks a request in no time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import RequestError

METHODS = ("greedy", "beam", "sample")


@dataclass(frozen=True)
class DecodeOptions:
    """How captions are written. Raises RequestError where a value, or a pair of them, makes no sense.

    method:         ``greedy`` takes the likeliest word; ``beam`` keeps the ``beam`` likeliest beginnings;
                    ``sample`` draws words.
    n_best:         captions an image, best first (at most ``beam``; 1 for greedy).
    temperature:    of sampling: below 1 bolder about likely words, above 1 flatter.
    top_k, top_p:   sampling draws from the ``top_k`` likeliest words (0: all), and of those from the fewest
                    whose probabilities reach ``top_p`` (1: all).
    seed:           sample i of an image depends on (seed, image_id, i) and on nothing else.
    max_length:     tokens a caption may have, START and END counted, as tokenizers count; None: the model's.
                    A caption that gets there is closed: its last token is END, with END's log-probability.
    prefix:         words that every caption starts with.
    allow_unk:      whether UNK may be written. PAD and START never are.
    keep_attention: whether each caption carries its attention weights.
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

    def __post_init__(self) -> None:
        _expect(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        _expect(self.beam >= 1, "beam", self.beam, "1 or more")
        most = self.captions_at_most()
        _expect(self.n_best >= 1, "n_best", self.n_best, "1 or more")
        _expect(
            most is None or self.n_best <= most, "n_best", self.n_best, f"at most {most} for {self.method}"
        )
        _expect(0 < self.temperature < float("inf"), "temperature", self.temperature, "a number above 0")
        _expect(self.top_k >= 0, "top_k", self.top_k, "0 (all words) or more")
        _expect(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        short = self.max_length is not None and self.max_length < 3
        _expect(not short, "max_length", self.max_length, "3 or more (START, a token, END)")

    def captions_at_most(self) -> int | None:
        """How many captions of one image the method can give; None: any number."""
        return {"greedy": 1, "beam": self.beam}.get(self.method)

    @property
    def rows(self) -> int:
        """Captions of one image that are written side by side."""
        return {"greedy": 1, "beam": self.beam}.get(self.method, self.n_best)

    def to_dict(self) -> dict[str, Any]:
        """Only what decides a caption's words, so that equal captions have equal fingerprints."""
        values = asdict(self)
        unused = {"greedy": ("beam", *_SAMPLING), "beam": _SAMPLING, "sample": ("beam",)}[self.method]
        return {name: value for name, value in values.items() if name not in unused}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecodeOptions:
        """The options that ``to_dict`` wrote. Raises RequestError for one that this version does not know."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        _expect(not unknown, "decoding options", unknown, f"some of {', '.join(cls.__dataclass_fields__)}")
        return cls(**values)


_SAMPLING = ("temperature", "top_k", "top_p", "seed")


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {value!r}; expected {expected}")
