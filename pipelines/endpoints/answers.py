"""Answers that are kept as soon as they arrive, so that a killed worker's are not paid for again.

``answers/<prompt's fingerprint>/<bucket>/<attempt>-<n>.parquet``: written once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.prompts import Prompt
from captionbeam.schemas.records import ImageRef

Answers = list[dict[str, Any]]


class KeptAnswers:
    """The answers of one attempt at a shard: those that earlier attempts left, and its own. Threads may share it."""

    def __init__(self, run: Run, shard: str, refs: Sequence[ImageRef], prompts: Sequence[Prompt]) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what is open."""

    def known(self, content: str, prompt: Prompt) -> Answers | None:
        """Returns earlier answers to ``prompt`` about an image of this ``content`` (SHA-256), or None."""
        raise NotImplementedError

    def keep(self, image_id: str, content: str, prompt: Prompt, answers: Answers) -> None:
        """Keeps answers; they are in the store within 2 seconds."""
        raise NotImplementedError

    def committed(self, failed: Collection[str]) -> None:
        """Removes the answers of this attempt that the shard's commit covers: all but those of ``failed`` images."""
        raise NotImplementedError
