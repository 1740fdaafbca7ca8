"""Images with one id in one run: how each is named in an error, and PassOverDuplicates, which takes the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection, TaggedOutput

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

RECORD = "duplicates.json"


class Duplicates(NamedTuple):
    """Images that were passed over, as an image before them has their id; ``example``: one of them in words."""

    images: int
    example: str = ""


def position(ref: ImageRef) -> tuple[str, int, int, str]:
    """Returns what orders the images of one source: by container, then by their place in it."""
    return ref.column if ref.kind == "file" else ref.uri, ref.offset, ref.length, ref.uri


def described(ref: ImageRef) -> str:
    """Returns an image in words, with its row in a list. Names in an archive need not be unique, its bytes are."""
    inside = f" at byte {ref.offset}" if ref.kind in ("zip", "tar") else ""
    row = f"row {ref.offset} of " if ref.kind == "file" and ref.offset else ""
    part = f"{ref.column} in " if row and ref.column else ""
    return f"{ref.location or 'no URI'}{inside} ({row or 'in '}{part}{ref.source})"


def refuse_duplicates(refs: Sequence[ImageRef]) -> None:
    """Raises RequestError, which names the first two of several images with one id."""
    if len(refs) < 2:
        return
    first, second = sorted(refs, key=lambda ref: (ref.source, position(ref)))[:2]
    by_path = first.kind == "file" and first.offset and first.uri.endswith(first.image_id)
    other = ", an id column (--id-column)" if by_path else ""
    raise RequestError(
        f"two images have the id {first.image_id!r}: {described(first)} and {described(second)}; expected one"
        f"{other}, or --on-duplicate first"
    )


def in_order(refs: Iterable[ImageRef], names: Sequence[str]) -> list[ImageRef]:
    """Returns images in the order of their sources in ``names``, then of their rows or places there."""
    order = {name: number for number, name in enumerate(names)}
    return sorted(refs, key=lambda ref: (order.get(ref.source, len(order)), position(ref)))


def take_first(refs: Iterable[ImageRef], names: Sequence[str]) -> tuple[list[ImageRef], Duplicates]:
    """Returns the first image of each id, ``in_order``, and what is passed over."""
    taken: dict[str, ImageRef] = {}
    passed_over = Duplicates(0)
    for ref in in_order(refs, names):
        first = taken.setdefault(ref.image_id, ref)
        if first is not ref:
            example = passed_over.example or f"{described(ref)} has the id of {described(first)}"
            passed_over = Duplicates(passed_over.images + 1, example)
    return list(taken.values()), passed_over


class PassOverDuplicates(
    beam.PTransform[PCollection[ImageRef], tuple[PCollection[ImageRef], PCollection[str]]]
):
    """Takes images, returns the first of each id, and one element after writing how many were passed over.

    The first is the one whose source comes first in ``names``, then by its row or place there. Counter:
    ``find/duplicates_passed_over``.
    """

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        super().__init__()
        self._run, self._names = run, tuple(names)

    def expand(self, images: PCollection[ImageRef]) -> Any:  # Beam takes no tuple as a hint
        taken = (
            images
            | "KeyById" >> beam.Map(lambda ref: (ref.image_id, ref))
            | "GroupById" >> beam.GroupByKey()
            | "TakeFirst"
            >> beam.ParDo(_TakeFirst(self._names))
            .with_output_types(ImageRef)
            .with_outputs("others", main="first")
        )
        written = (
            taken.others
            | "SumDuplicates" >> beam.CombineGlobally(sum_duplicates)
            | "WriteDuplicates" >> beam.Map(across_workers(write_duplicates), run=self._run)
        )
        return taken.first, written


class _TakeFirst(beam.DoFn):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._passed_over = Metrics.counter("find", "duplicates_passed_over")

    def process(
        self, group: tuple[str, Iterable[ImageRef]]
    ) -> Iterator[ImageRef | TaggedOutput[Literal["others"], Duplicates]]:
        (first,), others = take_first(group[1], self._names)
        if others.images:
            self._passed_over.inc(others.images)
            yield TaggedOutput("others", others)
        yield first


def sum_duplicates(parts: Iterable[Duplicates]) -> Duplicates:
    """Returns their sum, with the first example of the alphabet."""
    found = list(parts)
    examples = [part.example for part in found if part.example]
    return Duplicates(sum(part.images for part in found), min(examples, default=""))


def write_duplicates(found: Duplicates, run: Run) -> str:
    """Writes the record if the file does not exist yet. Returns its URL."""
    url = files.join(run.folder, RECORD)
    files.create(url, files.json_bytes(found._asdict()))
    return url


def read_duplicates(run: Run) -> Duplicates:
    """Returns the record from ``write_duplicates``; no images for a run that passes none over."""
    try:
        return Duplicates(**files.read_json(files.join(run.folder, RECORD)))
    except FileNotFoundError:
        return Duplicates(0)


def duplicates_line(found: Duplicates) -> str:
    """Returns ``2 images passed over, as others have their ids (...)``, or '' if there are none."""
    if not found.images:
        return ""
    whose = "another has its id" if found.images == 1 else "others have their ids"
    return f"{counted(found.images, 'image')} passed over, as {whose} ({found.example})"
