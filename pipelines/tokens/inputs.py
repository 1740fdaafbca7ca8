"""The input of a tokenizing run: caption files, their splits and versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from captionbeam.pipelines.bulk.find import is_sampled
from captionbeam.pipelines.sources.spec import version_of
from captionbeam.pipelines.tokens.caption_files import find_captions, read_captions
from captionbeam.pipelines.tokens.caption_rows import CaptionRecord
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files


class InputFile(NamedTuple):
    """One caption file. ``role``: ``train``, ``val``, or ``both`` if it is named for both.

    ``order`` is its position among the run's files, which keeps the order of an image's captions equal on all
    runners. ``val_share`` is the share of a training file's images to use for validation.
    """

    order: int
    role: str
    url: str
    member: str
    version: str
    val_share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields that affect the result, without a ``val_share`` of 0."""
        return {name: value for name, value in self._asdict().items() if name != "val_share" or value}

    def __str__(self) -> str:
        return f"{self.url}: {self.member}" if self.member else self.url


class SplitCaption(NamedTuple):
    """One caption and its split; ``split`` is '' if this run leaves the caption out."""

    split: str
    order: int
    row: int
    record: CaptionRecord


def list_inputs(
    train: Sequence[str], val: Sequence[str], member: str | None = None, val_share: float = 0.0
) -> list[InputFile]:
    """Returns the files that ``train`` and ``val`` name (paths, URLs, wildcards), once each. Raises RequestError.

    ``val_share`` of the images, by a hash of their ids, move from ``train`` to validation.
    """
    if val and val_share:
        raise RequestError(f"--val-share {val_share:g} beside --val; expected one of the two")
    roles: dict[tuple[str, str], list[str]] = {}
    for role, urls in (("train", train), ("val", val)):
        for found in (found for url in urls for found in find_captions(url, member)):
            named = roles.setdefault((files.absolute(found.url), found.member), [])
            if role not in named:
                named.append(role)
    return [
        InputFile(order, "both" if len(named) == 2 else named[0], url, inside, _version(url), val_share)
        for order, ((url, inside), named) in enumerate(roles.items())
    ]


def split_captions(source: InputFile) -> Iterator[SplitCaption]:
    """Yields the captions of ``source`` with their splits. Raises RequestError.

    The file's own splits apply (as in Karpathy's). From a file named for validation, only its ``val`` rows are used.
    """
    for row, record in enumerate(read_captions(source.url, source.member or None)):
        yield SplitCaption(_split_of(record, source), source.order, row, record)


def _split_of(record: CaptionRecord, source: InputFile) -> str:
    if source.role == "val" and record.split:
        return "val" if record.split == "val" else ""
    if source.role == "both" and not record.split:
        raise RequestError(
            f"{source} is named for both --train and --val, but does not say which images are which; "
            "expected a file with splits of its own, or one file each"
        )
    if source.val_share and record.split:
        raise RequestError(
            f"{source} says itself which images are for validation; expected no --val-share {source.val_share:g}"
        )
    if source.val_share and is_sampled(record.key, source.val_share, seed=0):
        return "val"
    return record.split or source.role


def _version(url: str) -> str:
    fs, path = files.split(url)
    return version_of(fs.info(path)) or ""
