"""METEOR of captions: the published program, METEOR 1.5 in Java, which pycocoevalcap carries (the extra ``meteor``)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from captionbeam.schemas.errors import RequestError, SystemicError, not_installed


def meteor_scorer() -> Any:
    """Returns pycocoevalcap's class. Raises RequestError if it or Java is not installed."""
    try:
        from pycocoevalcap.meteor.meteor import Meteor
    except ImportError as err:
        raise RequestError(not_installed("pycocoevalcap", "meteor")) from err
    if shutil.which("java") is None:
        raise RequestError(
            "METEOR is a Java program, and there is no java on the PATH; expected Java 8 or newer"
        )
    return Meteor


def meteor(
    captions: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> tuple[float, dict[str, float]]:
    """Returns METEOR of all captions and of each one, as pycocoevalcap computes it.

    Both arguments have the same images; a caption is its tokens, as ``tokenize`` gives them.
    Denkowski and Lavie, 2014. Raises RequestError as ``meteor_scorer`` does, SystemicError if the program ends early.
    """
    scorer = meteor_scorer()()
    try:
        total, each = scorer.compute_score(
            {image: [_line(one) for one in several] for image, several in references.items()},
            {image: [_line(captions[image])] for image in references},
        )
    except (OSError, ValueError) as err:
        scorer.lock.release()  # pycocoevalcap leaves it held, and takes it again to end the program
        said = scorer.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
        raise SystemicError(
            f"METEOR's Java program ended early ({said[0] if said else err}); expected 2 GB of memory for it"
        ) from err
    return float(total), dict(zip(references, map(float, each), strict=True))


def _line(tokens: Sequence[str]) -> str:
    """Returns a caption without what separates captions in a line of the program's input."""
    return " ".join(" ".join(tokens).replace("|||", " ").split())
