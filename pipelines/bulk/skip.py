"""SkipDone: removes images that the run's frozen base already has from the listing, and finds other kept columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Optional, TypedDict, cast

import apache_beam as beam
from apache_beam.pvalue import PCollection, TaggedOutput

from captionbeam.pipelines.bulk.adopt import AdoptIds
from captionbeam.pipelines.bulk.changed_columns import Change
from captionbeam.pipelines.bulk.duplicates import refuse_duplicates
from captionbeam.pipelines.bulk.run import Run, base_manifest
from captionbeam.pipelines.workers.boundary import across_workers, worker_boundary
from captionbeam.schemas.errors import RequestError, is_transient
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.formats.kept import HASH, TEXT, columns_hash, used_values
from captionbeam.schemas.records import ImageRef, address, addresses_in, superseded
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage import options as storage_options
from captionbeam.schemas.store.reading import Dead, Store
from captionbeam.schemas.store.rows import IndexRow


class BaseRow(NamedTuple):
    """One row of the base: the image's version, and the row's address in case it is replaced.

    ``dead``: no snapshot shows the row any more. ``columns``: the ``columns_hash`` of the row's kept columns, and
    ``used``: the values of those that prompts use, as text, if the run keeps some. ``renamed``: the row has another id,
    which the image takes over.
    """

    version: Optional[str]
    failed: bool
    code: Optional[str]
    address: str
    replaces: str = ""
    source: str = ""
    dead: bool = False
    columns: str = ""
    used: str = ""
    renamed: bool = False


class Candidates(TypedDict):
    """What the listing and the base have under one image id."""

    images: Iterable[ImageRef]
    base: Iterable[BaseRow]


Joined = tuple[str, Candidates]
Changed = TaggedOutput[Literal["columns"], Change]


def decide(
    refs: Sequence[ImageRef],
    base: Sequence[BaseRow],
    retry_failures: bool = False,
    used: Collection[str] = (),
) -> ImageRef | None:
    """Returns the reference to process for one image id, with the addresses of the rows it replaces, or None.

    An image is done if the base has a row of the same version (any version if the source has none) or a permanent
    failure of it, with the same values in ``used``, the columns that prompts use, unless the reference names the row as
    one to replace. An image that was deleted and is listed again replaces its dead rows, so its shard gets a new id.
    Raises RequestError for two images with one id.
    """
    if not refs:
        return None
    refuse_duplicates(refs)
    ref, live = refs[0], live_rows(base)
    named, values = set(addresses_in(ref.replaces)), used_values(ref.columns, used)
    again = any(row.renamed or row.address in named for row in live)
    if not again and any(_is_done_by(row, ref, retry_failures, values) for row in live):
        return None
    return ref._replace(replaces=",".join(sorted(row.address for row in live or base)))


def changed_columns(
    ref: ImageRef,
    base: Sequence[BaseRow],
    sources: Collection[str],
    retry_failures: bool = False,
    used: Collection[str] = (),
) -> list[Change]:
    """Returns the changes for an image that is done: those of its rows whose kept columns are not those of ``ref``.

    ``sources``: rows of others keep their columns. ``used``: the columns that prompts use.
    """
    wanted, values = columns_hash(ref.columns), used_values(ref.columns, used)
    return [
        Change(row.address, ref.columns)
        for row in live_rows(base)
        if row.columns != wanted and row.source in sources and _is_done_by(row, ref, retry_failures, values)
    ]


def live_rows(base: Sequence[BaseRow]) -> list[BaseRow]:
    """Returns the rows of ``base`` that are neither dead nor replaced by adopted rows."""
    rows = [row for row in base if not row.dead]
    dead = {place for row in rows for place in superseded(row.code, addresses_in(row.replaces))}
    return [row for row in rows if row.address not in dead]


def _is_done_by(row: BaseRow, ref: ImageRef, retry_failures: bool, used: str) -> bool:
    same = (ref.version is None or row.version == ref.version) and row.used == used
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


class SkipDone(beam.PTransform[PCollection[ImageRef], tuple[PCollection[ImageRef], PCollection[Change]]]):
    """Takes images, returns those to process: an anti-join on (image_id, version) with the run's base.

    The second output has the rows of the others whose kept columns changed. ``retired``: sources that no longer exist,
    whose rows may be replaced.
    """

    def __init__(self, run: Run, retry_failures: bool = False, retired: Collection[str] = ()) -> None:
        super().__init__()
        self._run, self._retry, self._retired = run, retry_failures, frozenset(retired)

    def expand(self, images: PCollection[ImageRef]) -> tuple[PCollection[ImageRef], PCollection[Change]]:
        decide_each = beam.ParDo(_DecideImages(self._run, self._retry, self._retired))
        outputs = decide_each.with_output_types(ImageRef).with_outputs("columns", main="todo")
        decided = images | JoinBase(self._run) | "Decide" >> outputs
        return decided.todo, decided.columns


class _DecideImages(beam.DoFn):
    def __init__(self, run: Run, retry_failures: bool, retired: frozenset[str]) -> None:
        self._keeps, self._used = run.keeps, run.used_columns
        self._retry, self._retired = retry_failures, retired
        self._storage = storage_options.current()

    def process(self, joined: Joined) -> Iterator[ImageRef | Changed]:
        refs, base = list(joined[1]["images"]), list(joined[1]["base"])
        with worker_boundary(self._storage):
            todo = decide(refs, base, self._retry, self._used)
            if todo is not None:
                check_others(todo, live_rows(base), self._retired | {todo.source})
        if todo is not None:
            yield todo
        elif refs and self._keeps:
            sources = self._retired | {refs[0].source}
            for change in changed_columns(refs[0], base, sources, self._retry, self._used):
                yield Changed("columns", change)


def read_base(
    url: str,
    shard: str,
    dead_rows: Sequence[int] | None,
    dead_failed: Sequence[int] | None,
    columns_url: str = "",
    used: Collection[str] = (),
) -> Iterator[tuple[str, BaseRow]]:
    """Yields ``(image_id, BaseRow)`` for each row of one shard's index. None: all its rows are dead.

    ``columns_url``: of the file with the kept columns of the same rows, if the run compares these; ``used``: those that
    prompts use.
    """
    dead, dead_failures = frozenset(dead_rows or ()), frozenset(dead_failed or ())
    rows = cast(list[IndexRow], parquet.read_table(url).to_pylist())
    names = [HASH, TEXT] if used else [HASH]
    kept = parquet.read_table(columns_url, names).to_pylist() if columns_url else [{}] * len(rows)
    for row, columns in zip(rows, kept, strict=True):
        place = address(shard, row["row"], row["failed"])
        is_dead = dead_rows is None or row["row"] in (dead_failures if row["failed"] else dead)
        outcome = (row["version"], row["failed"], row["code"])
        values = (columns.get(HASH, ""), used_values(columns.get(TEXT, ""), used))
        yield row["image_id"], BaseRow(*outcome, place, row["replaces"], row["source"], is_dead, *values)


def read_located(url: str, *shard: Any) -> Iterator[tuple[str, tuple[str, BaseRow]]]:
    """Yields ``(location, (image_id, BaseRow))`` for each row of one shard's index; takes what ``read_base`` takes."""
    locations = parquet.read_table(url, ["uri"]).column("uri").to_pylist()
    for location, (image_id, row) in zip(locations, read_base(url, *shard), strict=True):
        yield location or image_id, (image_id, row)


def check_others(todo: ImageRef, live: Sequence[BaseRow], sources: Collection[str]) -> None:
    """Raises RequestError if ``todo`` would replace a row of a source that is not in ``sources``."""
    others = sorted({row.source for row in live} - set(sources))
    if others:
        raise RequestError(
            f"image {todo.image_id!r} of {todo.source} would replace another one of {others[0]}; expected a store of "
            f"its own, or a refresh to which that source is given too, or --retire {others[0]} if it is no more"
        )


IndexFile = tuple[str, str, list[int] | None, list[int] | None, str, list[str]]


def _index_files(run: Run) -> list[IndexFile]:
    """Returns what ``read_base`` takes for each shard of the base.

    All rows are dead of shards that a redo replaces. Columns files are read only if the run keeps columns.
    """
    deletes = Store.open(run.url, run.base).dead if run.base is not None else {}
    replaced = Store.open(run.url, run.previous).shards if run.redo and run.previous is not None else []
    tasks: list[IndexFile] = [
        (files.join(run.url, "index", shard["index"]), shard["shard"], None, None, "", [])
        for shard in replaced
    ]
    for shard in base_manifest(run):
        dead = deletes.get(shard["shard"], Dead())
        url = files.join(run.url, "index", shard["index"])
        columns = files.join(run.url, "columns", shard["columns"]) if run.keeps and shard["columns"] else ""
        used = sorted(run.used_columns)
        tasks.append((url, shard["shard"], sorted(dead.rows), sorted(dead.failed), columns, used))
    return tasks
