"""What captioners of every kind have in common: the plan on the launcher, and the run of a batch on workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pyarrow as pa
import torch

from captionbeam.capmodel.generation.captions import Caption
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.capmodel.specs import complete_spec
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow

BATCH = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class CaptionPlan:
    """``spec``: everything that determines a row of captions besides the image."""

    spec: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The captions' fingerprint: 32 hexadecimal digits."""
        return fingerprint(self.spec)

    @property
    def field(self) -> pa.Field:
        """The output column."""
        return arrow.captions_field(complete_spec(self.spec)["decode"]["keep_attention"])

    @property
    def precision(self) -> str:
        """``fp32`` or ``bf16``."""
        return str(complete_spec(self.spec)["precision"])


class BatchCaptioner(ABC):
    """A processor that maps prepared images to ``captions``, best first.

    Batches are padded to ``batch_size``, so on one device a row does not depend on the rest of its batch. Threads may
    share a captioner; it computes ``streams`` batches at a time.
    """

    def __init__(self, plan: CaptionPlan, batch_size: int | None, device: torch.device) -> None:
        self.spec, self.fingerprint, self.schema = plan.spec, plan.fingerprint, pa.schema([plan.field])
        self.batch_size, self.device = batch_size or BATCH[device.type], device
        self._precision = plan.precision
        self._streams = Streams(self.batch_size, device)
        self.streams = self._streams.count

    @abstractmethod
    def prepare(self, item: Any) -> Any:
        """Prepares one image for a batch. Raises ImageError."""

    @abstractmethod
    def _inputs(self, batch: Sequence[Any], image_ids: Sequence[str]) -> Any:
        """Returns the model's input, padded to ``batch_size`` images."""

    @abstractmethod
    def _captions(self, inputs: Any, image_ids: Sequence[str]) -> list[list[Caption]]:
        """Returns the captions of ``batch_size`` images; ``image_ids`` determine random draws."""

    def run(self, batch: Sequence[Any], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns ``{"captions": list<struct<text, logprob, tokens[, attention]>>}``, one list per image.

        Raises ImageError if the model's output is not finite, OutOfMemory, SystemicError.
        """
        inputs = self._inputs(batch, image_ids)
        names = [*image_ids, *[""] * (self.batch_size - len(batch))]
        found = self._streams.run(lambda: self._captions(inputs, names))[: len(batch)]
        for name, captions in zip(image_ids, found, strict=True):
            if not captions or not all(isfinite(caption.logprob) for caption in captions):
                raise ImageError("model", "model", f"the model's output for {name!r} is not finite")
        rows = [[_struct(caption) for caption in captions] for captions in found]
        return {"captions": pa.array(rows, self.schema.field(0).type)}


def _struct(caption: Caption) -> dict[str, Any]:
    kept = {} if caption.attention is None else {"attention": list(caption.attention)}
    return {"text": caption.text, "logprob": caption.logprob, "tokens": caption.tokens, **kept}
