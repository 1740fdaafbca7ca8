"""Chat models of transformers in bulk jobs: answers to unchanged prompts are copied, and not generated again."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

from captionbeam.capmodel.specs import ChatSpec
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.copied import copied_answers
from captionbeam.pipelines.endpoints.prompts import Answers, Prompt, prompts_of
from captionbeam.schemas.records import ImageRef

NO_VALUES: Mapping[str, str] = {}


class Asked(Protocol):
    """One image: answers by column, and earlier ones about the same content by column and the image's id."""

    found: dict[str, Any]
    by_image: Mapping[str, Mapping[str, Answers]]


class Captioner(Protocol):
    """What is used of replicas of ``capmodel.captioners.huggingface.chat.ChatCaptioner``."""

    options: ChatSpec
    fingerprint: str
    schema: pa.Schema
    columns: tuple[str, ...]
    batch_size: int
    streams: int
    devices: Mapping[str, int]

    def prepare(
        self, item: bytes, used: Mapping[str, str] = ..., known: Mapping[str, Answers] = ...
    ) -> Any: ...

    def shape_of(self, asked: Any) -> Hashable: ...

    def bytes_of(self, asked: Any) -> int: ...

    def run(self, batch: Sequence[Any], image_ids: Sequence[str]) -> dict[str, pa.Array]: ...


class ChatProcessor:
    """A ``ChatCaptioner`` as the processor of an engine. Threads may share it."""

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.fingerprint, self.schema = captioner.fingerprint, captioner.schema
        self.streams, self.columns = captioner.streams, captioner.columns
        self.devices = captioner.devices

    @property
    def batch_size(self) -> int:
        """Images of a batch, of all shards: fewer once they exceeded the device's memory."""
        return self.captioner.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.captioner.batch_size = size

    def shape_of(self, value: Asked) -> Hashable:
        """Returns what images of a batch have in common."""
        return self.captioner.shape_of(value)

    def bytes_of(self, value: Asked) -> int:
        """Returns the size of an image's inputs in memory."""
        return self.captioner.bytes_of(value)

    def prepare(self, item: bytes, used: Mapping[str, str] = NO_VALUES) -> Any:
        """Returns a file's bytes as the model's inputs. Raises ImageError. ``used``: its values in ``columns``."""
        return self.captioner.prepare(item, used)

    def run(self, batch: Sequence[Asked], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns each image's answers, by column. Raises ImageError, OutOfMemory, SystemicError."""
        return self.captioner.run(batch, image_ids)

    @contextmanager
    def open_shard(self, run: Run, shard: str, refs: Sequence[ImageRef]) -> Iterator[ShardChatProcessor]:
        """Yields the processor of one shard, which copies the answers of the rows that it replaces."""
        prompts = prompts_of(self.captioner.options)
        yield ShardChatProcessor(self.captioner, prompts, copied_answers(run, refs, prompts))


class ShardChatProcessor(ChatProcessor):
    """A ``ChatProcessor`` for one shard, which knows answers by key (``Prompt.key``), fingerprint and image.

    Drawn answers depend on the image's id, so they are copied for the same image only, and images with the same bytes
    are not ``joined``.
    """

    def __init__(
        self,
        captioner: Captioner,
        prompts: Sequence[Prompt],
        copied: Mapping[tuple[str, str], Mapping[str, Answers]],
    ) -> None:
        super().__init__(captioner)
        self._prompts, self._copied = prompts, copied
        self.joins = captioner.options.decode.method != "sample"
        self.counts, self._lock = Counter[str](), threading.Lock()

    def prepare(self, item: bytes, used: Mapping[str, str] = NO_VALUES) -> Any:
        """Returns a file's bytes as the model's inputs for the prompts without known answers. Raises ImageError."""
        content, known = hashlib.sha256(item).hexdigest(), {}
        for prompt in self._prompts if self._copied else ():
            if found := self._copied.get((prompt.key(content, used), prompt.fingerprint)):
                known[prompt.column] = found
        if not self.joins:
            asked = self.captioner.prepare(item, used)
            asked.by_image = known
            return asked
        self._count(answers_copied=len(known))
        return self.captioner.prepare(
            item, used, {column: next(iter(of.values())) for column, of in known.items()}
        )

    def run(self, batch: Sequence[Asked], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns each image's answers, by column. Raises ImageError, OutOfMemory, SystemicError."""
        for asked, image_id in zip(batch, image_ids, strict=True):
            for column, answers in asked.by_image.items():
                if column not in asked.found and image_id in answers:
                    asked.found[column] = answers[image_id]
                    self._count(answers_copied=1)
        before = [asked.found.copy() for asked in batch]
        try:
            return super().run(batch, image_ids)
        finally:
            for asked, known in zip(batch, before, strict=True):
                self._count_tokens(asked.found, known)

    def _count_tokens(self, found: Mapping[str, Any], known: Collection[str]) -> None:
        """Counts the tokens of the answers that were generated just now: not ``known`` before, and no errors."""
        for answers in (
            own for column, own in found.items() if column not in known and isinstance(own, list)
        ):
            tokens = {name: sum(one[name] or 0 for one in answers) for name in ("tokens_in", "tokens_out")}
            self._count(**tokens)

    def _count(self, **more: int) -> None:
        with self._lock:
            self.counts.update(more)

    def committed(self, failed: Collection[str]) -> None:
        """Does nothing: no answers are kept beside those of commits."""
