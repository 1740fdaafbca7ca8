"""Validation: loss, next-word accuracy and caption scores on images outside the training split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

import torch

from captionbeam.capmodel import metrics
from captionbeam.capmodel.data.dataset import Data
from captionbeam.capmodel.data.loader import Batch, FeatureReader
from captionbeam.capmodel.data.sampler import sequential_steps
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.capmodel.objectives.losses import masked_cross_entropy, next_word_hits
from captionbeam.capmodel.runtime.device import autocast
from captionbeam.capmodel.runtime.distributed import Distributed
from captionbeam.capmodel.tokenizers import PAD, Tokenizer
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.schemas.formats.tokens import TokenTable


@dataclass(frozen=True)
class Validation:
    """Scores a decoder on the samples of ``reader``, divided among the ranks."""

    reader: FeatureReader
    table: TokenTable
    tokenizer: Tokenizer
    dist: Distributed
    batch_size: int
    autocast: Callable[[], torch.autocast]
    writing: DecodeOptions

    @classmethod
    def of(cls, options: TrainOptions, data: Data, dist: Distributed, precision: str) -> Self:
        """Returns the validation of a run with ``options`` on the val split."""
        reader = data.val(options.val_images)
        words = partial(autocast, dist.device, precision)
        return cls(reader, data.table, data.tokenizer, dist, options.batch_size, words, options.writing)

    def scores(self, decoder: Decoder, stopping: Callable[[], bool]) -> dict[str, float] | None:
        """Returns ``val_loss`` (nats per word), ``val_accuracy`` and the captions' metrics; None if stopped.

        ``stopping`` is called before each batch and must return the same on every rank.
        """
        sums, captions = torch.zeros(3, dtype=torch.float64), dict[int, str]()
        dist, images = self.dist, len(self.reader.samples)
        steps = sequential_steps(images, self.batch_size * dist.world_size, dist.rank, dist.world_size)
        with closing(self.reader.batches(steps)) as batches:
            for batch in batches:
                if stopping():
                    return None
                if len(batch.rows):
                    sums += self._words(decoder, batch)
                    captions |= self._captions(decoder, batch)
        loss, hits, words = dist.all_sum(*sums.tolist())
        written = {row: text for part in dist.all_gather(captions) for row, text in part.items()}
        hypotheses = {str(row): text for row, text in written.items()}
        metric = dist.from_main(lambda: dict(self.references.evaluate(hypotheses).scores))
        return {"val_loss": loss / words, "val_accuracy": hits / words, **metric}

    @torch.inference_mode()
    def _words(self, decoder: Decoder, batch: Batch) -> torch.Tensor:
        """Returns the sums of losses, correct next words and words of one batch, float64 [3]."""
        decoder.eval()
        tokens = batch.tokens.to(self.dist.device)
        targets = tokens[..., 1:]
        with self.autocast():
            logits = decoder(batch.features.to(self.dist.device), tokens[..., :-1], targets)
        flat = targets[targets != PAD]
        loss, words = masked_cross_entropy(logits, flat, PAD)
        return torch.stack([loss, next_word_hits(logits, flat, PAD), words]).double().cpu()

    def _captions(self, decoder: Decoder, batch: Batch) -> dict[int, str]:
        """Returns ``{row of the table: the best caption}``."""
        names = [str(row) for row in batch.rows]
        with self.autocast():
            found = generate(
                decoder, batch.features.to(self.dist.device), self.writing, names, self.tokenizer
            )
        return {int(row): captions[0].text for row, captions in zip(batch.rows, found, strict=True)}

    @cached_property
    def references(self) -> metrics.References:
        """The images' human captions, tokenized once for all epochs."""
        captions = self.table.table["captions"]
        return metrics.References({str(row): captions[row].as_py() for row in self.reader.samples.row})
