"""The contents of each epoch: its images, steps and captions.

Everything is a pure function of the options, the data and the phase's start, so a resumed run continues in the middle
of an epoch without any difference. ``age`` is the number of finished epochs of the phase.

Shapes: M images of an epoch (an image may occur in two passes), N captions per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from captionbeam.capmodel.data.loader import FeatureReader
from captionbeam.capmodel.data.sampler import even_parts, shuffled
from captionbeam.capmodel.training.config import TrainOptions

DRAWS, BUCKETS = 1, 2  # random streams besides the order of the images


class Part(NamedTuple):
    """One rank's input of one forward pass.

    ``samples`` int64 [n]: indexes of images; ``captions`` int64 [n, N]: indexes of their captions, -1 for none, or None
    for all captions.
    """

    samples: np.ndarray
    captions: np.ndarray | None


class Pass(NamedTuple):
    """Images in the order of one pass over the split, and the slot of each one's row group."""

    part: Part
    slot: np.ndarray


@dataclass(frozen=True)
class Epochs:
    """The epochs of a run with ``options`` over ``reader``'s images, on rank ``rank`` of ``world``.

    An epoch is one pass over all images, or ``steps_per_epoch`` steps that continue where the previous epoch ended.
    """

    options: TrainOptions
    reader: FeatureReader
    rank: int
    world: int

    def images_per_step(self, age: int) -> int:
        """Returns the maximum number of images per step, over all ranks."""
        return self.options.images_per_step(self.world, age)

    def steps(self, age: int) -> int:
        """Returns the number of steps of the epoch of that ``age``."""
        return self.options.steps_per_epoch or -(-len(self.reader.samples) // self.images_per_step(age))

    def images(self, age: int) -> int:
        """Returns the number of images of the epoch of that ``age``, over all ranks."""
        fixed = self.options.steps_per_epoch
        return fixed * self.images_per_step(age) if fixed else len(self.reader.samples)

    def steps_until(self, age: int) -> int:
        """Returns the number of steps of a phase before the epoch of that ``age``."""
        return sum(map(self.steps, range(age)))

    def images_until(self, age: int) -> int:
        """Returns the number of images of a phase before the epoch of that ``age``, over all ranks."""
        return sum(map(self.images, range(age)))

    def parts(self, epoch: int, age: int, first_image: int) -> list[Part]:
        """Returns this rank's parts of an epoch, ``accumulate`` per step.

        ``epoch``: the run's epochs before it. ``first_image``: the images that the run had read when the phase began.
        """
        part, slot = self._stream(epoch, first_image + self.images_until(age), self.images(age))
        steps = even_parts(np.arange(len(slot)), self.steps(age))
        if self.options.bucket_by_length:
            steps = self._bucketed(steps, self._lengths(part), epoch)
        each = self.options.accumulate
        own = slice(self.rank * each, (self.rank + 1) * each)
        return [
            _taken(part, places)
            for step in steps
            for places in even_parts(step[np.argsort(slot[step], kind="stable")], self.world * each)[own]
        ]

    def _stream(self, epoch: int, start: int, count: int) -> Pass:
        """Returns ``count`` images: a whole pass, or those from ``start`` on in the sequence of all passes."""
        if not self.options.steps_per_epoch:
            return self._pass(epoch)
        size = len(self.reader.samples)
        passes = [self._pass(number) for number in range(start // size, -(-(start + count) // size))]
        joined = Pass(_joined([one.part for one in passes]), np.concatenate([one.slot for one in passes]))
        here = np.arange(start % size, start % size + count)
        return Pass(_taken(joined.part, here), joined.slot[here])

    def _pass(self, number: int) -> Pass:
        """Returns one pass, which has every image once."""
        order, slot = shuffled(self.reader.samples.group, self.options.mix, self.options.seed, number)
        return Pass(Part(order, self._drawn(number, order)), slot[order])

    def _drawn(self, number: int, samples: np.ndarray) -> np.ndarray | None:
        """Draws ``captions_per_image`` of each image by (seed, pass, image), in the table's order."""
        wanted = self.options.captions_per_image
        if wanted is None:
            return None
        there = self._sizes > 0
        draw = np.random.default_rng([self.options.seed, number, DRAWS]).random(there.shape)
        chosen = np.sort(np.where(there, draw, 2.0).argsort(axis=1)[:, :wanted], axis=1)
        missing = np.take_along_axis(~there, chosen, axis=1)
        return np.where(missing, -1, chosen)[samples]

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Tokens of each caption of each image, int64 [images, N]; 0 if there is no caption."""
        return self.reader.tokens.lengths(self.reader.samples.row)

    def _lengths(self, part: Part) -> np.ndarray:
        """Returns the number of tokens of each image's longest selected caption, [M]."""
        sizes = self._sizes[part.samples]
        if part.captions is not None:
            sizes = np.where(part.captions < 0, 0, np.take_along_axis(sizes, part.captions, axis=1))
        return sizes.max(axis=1)

    def _bucketed(self, steps: list[np.ndarray], lengths: np.ndarray, epoch: int) -> list[np.ndarray]:
        """Returns steps of images with similar caption lengths, in random order.

        Images move between nearby steps only, so that about twice ``mix`` row groups are open at once.
        """
        random = np.random.default_rng([self.options.seed, epoch, BUCKETS])
        samples = self.reader.samples
        group = len(samples) / len(np.unique(samples.group))
        each = max(
            2, int(self.options.mix * group / len(steps[0]))
        )  # steps with as many images as ``mix`` groups
        pools = [steps[start : start + each] for start in range(0, len(steps), each)]
        found: list[np.ndarray] = []
        for pool in pools:
            places = np.concatenate(pool)
            buckets = even_parts(places[np.argsort(lengths[places], kind="stable")], len(pool))
            found += [buckets[number] for number in random.permutation(len(pool))]
        return found


def _taken(part: Part, places: np.ndarray) -> Part:
    captions = None if part.captions is None else part.captions[places]
    return Part(part.samples[places], captions)


def _joined(parts: list[Part]) -> Part:
    captions = [part.captions for part in parts if part.captions is not None]
    return Part(
        np.concatenate([part.samples for part in parts]), np.concatenate(captions) if captions else None
    )
