"""SkipDone: removes images that the run's frozen base already has from the listing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Optional, TypedDict, cast

import apache_beam as beam
from apache_beam.pvalue import PCollection

from captionbeam.pipelines.bulk.adopt import AdoptIds
from captionbeam.pipelines.bulk.duplicates import refuse_duplicates
from captionbeam.pipelines.bulk.run import Run, base_manifest
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.errors import RequestError, is_transient
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.records import ImageRef, address, addresses_in, superseded
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Dead, Store
from captionbeam.schemas.store.rows import IndexRow


class BaseRow(NamedTuple):
    """One row of the base: the image's version, and the row's address in case it is replaced.

    ``dead``: no snapshot shows the row any more. ``renamed``: the row has another id, which the image takes over.
    """

    version: Optional[str]
    failed: bool
    code: Optional[str]
    address: str
    replaces: str = ""
    source: str = ""
    dead: bool = False
    renamed: bool = False


class Candidates(TypedDict):
    """What the listing and the base have under one image id."""

    images: Iterable[ImageRef]
    base: Iterable[BaseRow]


Joined = tuple[str, Candidates]


def decide(
    refs: Sequence[ImageRef], base: Sequence[BaseRow], retry_failures: bool = False
) -> ImageRef | None:
    """Returns the reference to process for one image id, with the addresses of the rows it replaces, or None.

    An image is done if the base has a row of the same version (any version if the source has none) or a permanent
    failure of it. An image that was deleted and is listed again replaces its dead rows, so its shard gets a new id.
    Raises RequestError for two images with one id.
    """
    if not refs:
        return None
    refuse_duplicates(refs)
    ref, live = refs[0], live_rows(base)
    renamed = any(row.renamed for row in live)
    if not renamed and any(_is_done_by(row, ref, retry_failures) for row in live):
        return None
    return ref._replace(replaces=",".join(sorted(row.address for row in live or base)))


def live_rows(base: Sequence[BaseRow]) -> list[BaseRow]:
    """Returns the rows of ``base`` that are neither dead nor replaced by adopted rows."""
    rows = [row for row in base if not row.dead]
    dead = {place for row in rows for place in superseded(row.code, addresses_in(row.replaces))}
    return [row for row in rows if row.address not in dead]


def _is_done_by(row: BaseRow, ref: ImageRef, retry_failures: bool) -> bool:
    same = ref.version is None or row.version == ref.version
    return same and not (row.failed and (retry_failures or is_transient(row.code or "")))


class JoinBase(beam.PTransform[PCollection[ImageRef], PCollection[Joined]]):
    """Takes images, returns ``(id, {"images": [...], "base": [...]})`` for each id in the listing or the run's base."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def expand(self, images: PCollection[ImageRef]) -> PCollection[Joined]:
        shards = (
            images.pipeline
            | "ListBase" >> beam.Create(_index_files(self._run))
            | "SpreadBase" >> beam.Reshuffle()
        )
        if self._run.adopts:
            located = {
                "images": images
                | "KeyByLocation" >> beam.Map(lambda ref: (ref.location or ref.image_id, ref)),
                "base": shards | "ReadLocations" >> beam.FlatMapTuple(across_workers(read_located)),
            }
            joined = located | "JoinLocations" >> beam.CoGroupByKey()
            images, base = joined | AdoptIds(self._run.retired)
        else:
            base = shards | "ReadBase" >> beam.FlatMapTuple(across_workers(read_base))
        keyed = images | "KeyByImage" >> beam.Map(lambda ref: (ref.image_id, ref))
        return cast(PCollection[Joined], {"images": keyed, "base": base} | beam.CoGroupByKey())


class SkipDone(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """Takes images, returns those to process: an anti-join on (image_id, version) with the run's base.

    ``retired``: sources that no longer exist, whose rows may be replaced.
    """

    def __init__(self, run: Run, retry_failures: bool = False, retired: Collection[str] = ()) -> None:
        super().__init__()
        self._run, self._retry, self._retired = run, retry_failures, frozenset(retired)

    def expand(self, images: PCollection[ImageRef]) -> PCollection[ImageRef]:
        decided = beam.FlatMap(across_workers(_decided), retry=self._retry, retired=self._retired)
        return images | JoinBase(self._run) | "Decide" >> decided.with_output_types(ImageRef)


def read_base(
    url: str, shard: str, dead_rows: Sequence[int] | None, dead_failed: Sequence[int] | None
) -> Iterator[tuple[str, BaseRow]]:
    """Yields ``(image_id, BaseRow)`` for each row of one shard's index. None: all its rows are dead."""
    dead, dead_failures = frozenset(dead_rows or ()), frozenset(dead_failed or ())
    for row in cast(list[IndexRow], parquet.read_table(url).to_pylist()):
        place = address(shard, row["row"], row["failed"])
        is_dead = dead_rows is None or row["row"] in (dead_failures if row["failed"] else dead)
        outcome = (row["version"], row["failed"], row["code"])
        yield row["image_id"], BaseRow(*outcome, place, row["replaces"], row["source"], is_dead)


def read_located(url: str, *shard: Any) -> Iterator[tuple[str, tuple[str, BaseRow]]]:
    """Yields ``(location, (image_id, BaseRow))`` for each row of one shard's index; takes what ``read_base`` takes."""
    locations = parquet.read_table(url, ["uri"]).column("uri").to_pylist()
    for location, (image_id, row) in zip(locations, read_base(url, *shard), strict=True):
        yield location or image_id, (image_id, row)


def _decided(joined: Joined, retry: bool, retired: frozenset[str]) -> Iterable[ImageRef]:
    base = list(joined[1]["base"])
    ref = decide(list(joined[1]["images"]), base, retry)
    if ref is None:
        return ()
    check_others(ref, live_rows(base), retired | {ref.source})
    return (ref,)


def check_others(todo: ImageRef, live: Sequence[BaseRow], sources: Collection[str]) -> None:
    """Raises RequestError if ``todo`` would replace a row of a source that is not in ``sources``."""
    others = sorted({row.source for row in live} - set(sources))
    if others:
        raise RequestError(
            f"image {todo.image_id!r} of {todo.source} would replace another one of {others[0]}; expected a store of "
            f"its own, or a refresh to which that source is given too, or --retire {others[0]} if it is no more"
        )


def _index_files(run: Run) -> list[tuple[str, str, list[int] | None, list[int] | None]]:
    """Returns each index of the base with its shard and dead rows; None: all are, as those that a redo replaces."""
    deletes = Store.open(run.url, run.base).dead if run.base is not None else {}
    replaced = Store.open(run.url, run.previous).shards if run.previous is not None else []
    tasks: list[tuple[str, str, list[int] | None, list[int] | None]] = [
        (files.join(run.url, "index", shard["index"]), shard["shard"], None, None) for shard in replaced
    ]
    for shard in base_manifest(run):
        dead = deletes.get(shard["shard"], Dead())
        url = files.join(run.url, "index", shard["index"])
        tasks.append((url, shard["shard"], sorted(dead.rows), sorted(dead.failed)))
    return tasks
