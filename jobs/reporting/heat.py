"""Attention heat maps, one per word, to overlay on the picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from captionbeam.jobs.reporting.pictures import data_uri

SIDE, LEVELS = 32, 64
# Red, green, blue, alpha at no, half and full attention: dark covers the picture, light reveals it.
_STOPS = np.array([(6, 8, 26, 175), (170, 40, 90, 125), (255, 200, 80, 90)], dtype=float)
_CONTINUES = "@@"


@dataclass(frozen=True)
class Look:
    """One word and its attention as a heat map (data URI)."""

    word: str
    heat: str


def looks(tokens: Sequence[str], attention: Sequence[Sequence[float]] | None) -> list[Look]:
    """Returns a heat map per word; none if there is no attention, or not over a square grid.

    ``attention`` is [T][H * W], one row per token. Pieces of one word (``gi@@ raffe``) are joined, and their attention
    is averaged.
    """
    cells = len(attention[0]) if attention else 0
    side = math.isqrt(cells)
    if not attention or len(attention) != len(tokens) or side * side != cells or side < 2:
        return []
    grids = np.asarray(attention, dtype=float).reshape(len(tokens), side, side)
    return [Look(word, _heat_map(grids[start:end].mean(0))) for word, start, end in _words(tokens)]


def _words(tokens: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns each word with the range of its tokens."""
    words, start = [], 0
    for at, token in enumerate(tokens):
        if not token.endswith(_CONTINUES) or at == len(tokens) - 1:
            pieces = [piece.removesuffix(_CONTINUES) for piece in tokens[start : at + 1]]
            words.append(("".join(pieces), start, at + 1))
            start = at + 1
    return words


def _heat_map(grid: np.ndarray) -> str:
    """Returns the attention ``[H, W]`` of one word as a small palette PNG, scaled from its minimum to its maximum.

    If the maximum exceeds the minimum by less than the mean, attention is nearly uniform and the map stays dark.
    """
    above = grid - grid.min()
    levels = above / max(float(above.max()), float(grid.mean()), 1e-9)
    wide = Image.fromarray(levels.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image = Image.fromarray((np.clip(np.asarray(wide), 0, 1) * (LEVELS - 1)).round().astype(np.uint8), "P")
    image.putpalette(_PALETTE[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=_PALETTE[:, 3].tobytes())
    return data_uri(file.getvalue(), "image/png")


def _palette() -> np.ndarray:
    at = np.linspace(0, 1, LEVELS)
    columns = [np.interp(at, np.linspace(0, 1, len(_STOPS)), _STOPS[:, channel]) for channel in range(4)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


_PALETTE = _palette()
