"""SkipDone: the listing minus the run's frozen base."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

import apache_beam as beam

from pipelines.boundary import across_workers
from pipelines.run import Run, base_manifest
from schemas import files, parquet
from schemas.errors import RequestError, is_transient
from schemas.records import ImageRef, address, named_places, superseded
from schemas.store import Dead, Store


class BaseRow(NamedTuple):
    """One row of the base: its image's version, and where it is, should it have to be replaced.

    ``dead``: no snapshot shows it any more.
    """

    version: Optional[str]
    failed: bool
    code: Optional[str]
    address: str
    replaces: str = ""
    source: str = ""
    dead: bool = False


def decide(
    refs: Sequence[ImageRef], base: Sequence[BaseRow], retry_failures: bool = False
) -> ImageRef | None:
    """What is to be done of one image id: None, or its reference, with the addresses of the rows it replaces.

    An image is done if the base has a row of the same version (any version, where the source cannot tell its own),
    or a permanent failure of it. One that was deleted and came back replaces its dead rows, so that its shard is not
    taken for the one that it was in. Raises RequestError for two images with one id.
    """
    if not refs:
        return None
    if len(refs) > 1:
        first, second = sorted(map(_place, refs))[:2]
        raise RequestError(f"two images have the id {refs[0].image_id!r}: {first} and {second}; expected one")
    ref, live = refs[0], live_rows(base)
    if any(_settles(row, ref, retry_failures) for row in live):
        return None
    return ref._replace(replaces=",".join(sorted(row.address for row in live or base)))


def _place(ref: ImageRef) -> str:
    inside = (
        f" at byte {ref.offset}" if ref.kind in ("zip", "tar") else ""
    )  # names in an archive may be equal
    return f"{ref.location}{inside} (in {ref.source})"


def live_rows(base: Sequence[BaseRow]) -> list[BaseRow]:
    """Without the dead, and the rows that adopted ones replace: no snapshot says so yet."""
    rows = [row for row in base if not row.dead]
    dead = {place for row in rows for place in superseded(row.code, named_places(row.replaces))}
    return [row for row in rows if row.address not in dead]


def _settles(row: BaseRow, ref: ImageRef, retry_failures: bool) -> bool:
    same = ref.version is None or row.version == ref.version
    if not row.failed:
        return same
    return same and not retry_failures and not is_transient(row.code or "")


class JoinBase(beam.PTransform):
    """Images in; for each id that the listing or the run's base has, ``(id, {"images": [...], "base": [...]})`` out."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        base = (
            images.pipeline
            | "ListBase" >> beam.Create(_index_files(self._run))
            | "SpreadBase" >> beam.Reshuffle()
            | "ReadBase" >> beam.FlatMapTuple(across_workers(read_base))
        )
        keyed = images | "KeyByImage" >> beam.Map(lambda ref: (ref.image_id, ref))
        return {"images": keyed, "base": base} | beam.CoGroupByKey()


class SkipDone(beam.PTransform):
    """Images in, those to be done out: an anti-join on (image_id, version) with the run's base."""

    def __init__(self, run: Run, retry_failures: bool = False) -> None:
        super().__init__()
        self._run, self._retry = run, retry_failures

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        return (
            images
            | JoinBase(self._run)
            | "Decide"
            >> beam.FlatMap(across_workers(_decided), retry=self._retry).with_output_types(ImageRef)
        )


def read_base(url: str, shard: str, dead_rows: Sequence[int], dead_failed: Sequence[int]) -> Iterator[tuple]:
    """``(image_id, BaseRow)`` for each row of one shard's index."""
    dead = Dead(frozenset(dead_rows), frozenset(dead_failed))
    for row in parquet.read_table(url).to_pylist():
        place = address(shard, row["row"], row["failed"])
        outcome = (row["version"], row["failed"], row["code"])
        is_dead = row["row"] in (dead.failed if row["failed"] else dead.rows)
        yield row["image_id"], BaseRow(*outcome, place, row["replaces"], row["source"], is_dead)


def _decided(joined: tuple[str, dict], retry: bool) -> Iterable[ImageRef]:
    _, found = joined
    base = list(found["base"])
    ref = decide(list(found["images"]), base, retry)
    if ref is None:
        return ()
    check_others(ref, live_rows(base), {ref.source})
    return (ref,)


def check_others(todo: ImageRef, live: Sequence[BaseRow], sources: Collection[str]) -> None:
    """Raises RequestError where ``todo`` would replace a row of a source that is none of ``sources``."""
    others = sorted({row.source for row in live} - set(sources))
    if others:
        raise RequestError(
            f"image {todo.image_id!r} of {todo.source} would replace another one of {others[0]}; expected a store of "
            f"its own, or a refresh to which that source is given too, or --retire {others[0]} if it is no more"
        )


def _index_files(run: Run) -> list[tuple[str, str, list[int], list[int]]]:
    deletes = Store.open(run.url, run.base).dead if run.base is not None else {}
    tasks = []
    for shard in base_manifest(run):
        dead = deletes.get(shard["shard"], Dead())
        url = files.join(run.url, "index", shard["index"])
        tasks.append((url, shard["shard"], sorted(dead.rows), sorted(dead.failed)))
    return tasks
