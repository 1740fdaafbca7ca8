"""Captions of many lengths as one shrinking block a time step.

Shapes: B images, N captions an image, T steps; block t holds ``b_t`` images with ``n_t`` captions each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Which captions are still running at each step, and where each of their rows lies.

    Images are sorted by their longest caption and the captions of each by length, both falling; so what
    still runs at step t lies in the corner ``[:b_t, :n_t]``, which is a view, and a recurrence over corners
    does little more than the captions' own words (on Flickr8k 1.2 times as many, where padding makes it 2.2).
    Rows are numbered block by block, in each block by image and then caption.
    """

    sizes: list[tuple[int, int]]  # (b_t, n_t) for each step
    images: Tensor  # [B] int64: the image at each sorted place
    captions: Tensor  # [B, N] int64: which caption of that image lies at each sorted place
    picks: Tensor  # [M] int64: the rows of the wanted positions, in the order of wanted.nonzero()

    @classmethod
    def of(cls, wanted: Tensor) -> Blocks:
        """The blocks that cover the True places of ``wanted`` ``[B, N, T]``; what precedes one runs too."""
        lengths = _lengths(wanted)
        images = lengths.amax(1).argsort(dim=0, descending=True, stable=True)
        captions = lengths.argsort(dim=1, descending=True, stable=True)[images]
        sizes = _sizes(lengths[images].gather(1, captions))
        return cls(sizes, images, captions, _picks(wanted, sizes, images, captions))

    def rows(self, tokens: Tensor) -> Tensor:
        """``tokens`` ``[B, N, T]`` as the rows of all blocks, ``[sum b_t n_t]``."""
        index = self.captions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        ordered = tokens[self.images].gather(1, index)
        corners = [ordered[:b, :n, t].reshape(-1) for t, (b, n) in enumerate(self.sizes)]
        return torch.cat(corners) if corners else tokens.new_empty(0)


def _lengths(wanted: Tensor) -> Tensor:
    """``[B, N]``: one more than the last True step, 0 where there is none."""
    steps = torch.arange(1, wanted.shape[-1] + 1, device=wanted.device)
    return (wanted * steps).amax(-1)


def _sizes(ordered: Tensor) -> list[tuple[int, int]]:
    """``ordered`` ``[B, N]``, lengths that fall along both axes -> ``(b_t, n_t)`` a step."""
    steps = torch.arange(int(ordered.max()), device=ordered.device)
    images = (ordered[:, :1] > steps).sum(0)
    captions = (ordered.amax(0).unsqueeze(1) > steps).sum(0)
    return list(zip(images.tolist(), captions.tolist(), strict=True))


def _picks(wanted: Tensor, sizes: list[tuple[int, int]], images: Tensor, captions: Tensor) -> Tensor:
    image, caption, step = wanted.nonzero(as_tuple=True)
    widths = torch.tensor([n for _, n in sizes], device=wanted.device, dtype=torch.int64)
    counts = torch.tensor([b * n for b, n in sizes], device=wanted.device, dtype=torch.int64)
    starts = counts.cumsum(0) - counts
    place = images.argsort()[image]
    return starts[step] + place * widths[step] + captions.argsort(dim=1)[place, caption]
