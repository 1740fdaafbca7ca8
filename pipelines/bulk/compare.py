"""CompareStore: compares a complete listing with the run's base to find images to process and images that are gone.

Gone rows are written below the run's plan, created if absent. If a runner repeats the listing, only the rows missing
from the first listing are deleted.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, Optional, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsList, PBegin, PCollection, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from captionbeam.capmodel.templates import columns_by_prompt
from captionbeam.pipelines.bulk.changed_columns import Change
from captionbeam.pipelines.bulk.run import Run, base_manifest
from captionbeam.pipelines.bulk.skip import (
    BaseRow,
    Changed,
    JoinBase,
    Joined,
    changed_columns,
    check_others,
    decide,
    live_rows,
)
from captionbeam.pipelines.workers.boundary import across_workers, worker_boundary
from captionbeam.schemas.formats import arrow, parquet
from captionbeam.schemas.formats.kept import unpacked, used_values
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage import options as storage_options
from captionbeam.schemas.store.reading import Store

SHARDS_PER_PART = 256
GONE = pa.schema(
    [pa.field("address", pa.string(), nullable=False), pa.field("image_id", pa.string(), nullable=False)]
)
KINDS = ("new", "changed", "again", "moved", "columns", "unchanged", "gone", "known")
OF_PROMPTS = ("values", "answers_copied")  # counted of changed images, where prompts use columns


class Comparison(NamedTuple):
    """Result of the comparison for one image id. ``kind`` is one of KINDS, or '' if the id does not concern the run.

    ``gone``: addresses of rows. ``known``: whether the base has the image from one of the listed sources. ``columns``:
    changes to the kept columns of an image of the kind ``columns``, which is otherwise unchanged.
    """

    kind: str
    known: bool
    todo: Optional[ImageRef] = None
    gone: Sequence[str] = ()
    columns: Sequence[Change] = ()


def compare_image(
    refs: Sequence[ImageRef],
    base: Sequence[BaseRow],
    sources: Collection[str],
    complete: bool = True,
    retry_failures: bool = False,
    keeps: bool = False,
    used: Collection[str] = (),
) -> Comparison:
    """Compares one image id of a listing of ``sources`` with the base.

    ``complete``: the listing has all images of these sources. ``keeps``: the run keeps columns of its input; ``used``:
    those that prompts use. An image with other values in these is ``changed``. An image is ``moved`` if its row belongs
    to another of the sources. It is processed again, so that its row has the current location. Raises RequestError for
    two images with one id, and if a row of a source that was not listed would be replaced.
    """
    todo, live = decide(refs, base, retry_failures, used), live_rows(base)
    ours = [row for row in live if row.source in sources]
    if not refs:
        places = [row.address for row in ours] if complete else []
        return Comparison("gone" if places else "", bool(ours), gone=sorted(places))
    if todo is None and any(row.source != refs[0].source for row in ours):
        todo = refs[0]._replace(replaces=",".join(sorted(row.address for row in live)))
    if todo is None:
        changes = changed_columns(refs[0], base, {refs[0].source}, retry_failures, used) if keeps else []
        return Comparison("columns" if changes else "unchanged", bool(ours), columns=changes)
    check_others(todo, live, sources)
    return Comparison(_why(todo, live, used), bool(ours), todo)


def value_counts(
    ref: ImageRef, base: Sequence[BaseRow], prompts: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Returns counts for a ``changed`` image: ``values``, 1 if it has other values in columns that prompts use, and
    ``answers_copied``, the prompts to which its answers stay.

    ``prompts``: the columns that each uses. Where the version differs too, no answer is sure to stay.
    """
    row, *_ = live_rows(base)
    before = unpacked(row.used)
    now = unpacked(used_values(ref.columns, {name for names in prompts.values() for name in names}))
    if before == now:
        return {}
    same = sum(all(before.get(name) == now.get(name) for name in names) for names in prompts.values())
    stays = ref.version in (None, row.version) and not row.failed
    return {"values": 1, "answers_copied": same if stays else 0}


def _why(todo: ImageRef, live: Sequence[BaseRow], used: Collection[str]) -> str:
    if not live:
        return "new"
    about = todo.version, used_values(todo.columns, used)
    same = [row for row in live if (row.version, row.used) == about]
    if not same:
        return "changed"
    return "again" if any(row.failed for row in same) else "moved"


class CompareStore(
    beam.PTransform[
        PCollection[ImageRef], tuple[PCollection[ImageRef], PCollection[Change], PCollection[str]]
    ]
):
    """Takes images, returns those to process; writes gone rows and counts to the run's folder.

    ``sources`` gives the names of the listed sources. The second output has the rows whose kept columns changed. The
    third has one element for each written file, for publishing to wait on.
    """

    def __init__(
        self,
        run: Run,
        sources: beam.PTransform[PBegin, PCollection[str]],
        complete: bool = True,
        retry_failures: bool = False,
    ) -> None:
        super().__init__()
        self._run, self._sources = run, sources
        self._complete, self._retry = complete, retry_failures

    def expand(
        self, images: PCollection[ImageRef]
    ) -> tuple[PCollection[ImageRef], PCollection[Change], PCollection[str]]:
        run, parts = self._run, -(-len(base_manifest(self._run)) // SHARDS_PER_PART) or 1
        names = images.pipeline | "NameListed" >> self._sources
        compare = beam.ParDo(_CompareImages(run, self._complete, self._retry), AsList(names))
        outputs = compare.with_output_types(ImageRef).with_outputs("columns", "gone", "counts", main="todo")
        compared = images | JoinBase(run) | "CompareImages" >> outputs
        gone = (
            compared.gone
            | "KeyByPart" >> beam.Map(lambda row, parts: (gone_part(row[0], parts), row), parts)
            | "GroupGone" >> beam.GroupByKey()
            | "WriteGone" >> beam.Map(across_workers(lambda group: write_gone(group[0], group[1], run)))
        )
        counts = (
            compared.counts
            | "SumCounts" >> beam.CombineGlobally(_sum_counts)
            | "WriteCounts" >> beam.Map(across_workers(write_counts), run=run)
        )
        return compared.todo, compared.columns, (gone, counts) | "WhatIsWritten" >> beam.Flatten()


Gone = TaggedOutput[Literal["gone"], tuple[str, str]]  # address, image id


class _CompareImages(beam.DoFn):
    def __init__(self, run: Run, complete: bool, retry_failures: bool) -> None:
        self._compare = functools.partial(
            compare_image,
            complete=complete,
            retry_failures=retry_failures,
            keeps=run.keeps,
            used=run.used_columns,
        )
        self._prompts = columns_by_prompt(run.spec)
        self._storage = storage_options.current()

    def start_bundle(self) -> None:
        self._counts: Counter[str] = Counter()

    def process(self, joined: Joined, sources: list[str]) -> Iterator[ImageRef | Gone | Changed]:
        image_id, found = joined
        images, base = list(found["images"]), list(found["base"])
        with worker_boundary(self._storage):
            compared = self._compare(images, base, set(sources))
        self._counts.update(name for name in (compared.kind, "known" if compared.known else "") if name)
        if compared.kind == "changed" and compared.todo is not None and self._prompts:
            self._counts.update(value_counts(compared.todo, base, self._prompts))
        for place in compared.gone:
            yield Gone("gone", (place, image_id))
        for change in compared.columns:
            yield Changed("columns", change)
        if compared.todo is not None:
            yield compared.todo

    def finish_bundle(self) -> Iterator[TaggedOutput[Literal["counts"], WindowedValue]]:
        yield TaggedOutput("counts", GlobalWindows.windowed_value(dict(self._counts)))


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def gone_part(place: str, parts: int) -> str:
    """Returns the name of the file for a gone row's address. It depends only on the shard."""
    number = int.from_bytes(hashlib.blake2b(place.split("/")[0].encode(), digest_size=8).digest(), "big")
    return f"{number % parts:06d}"


def write_gone(part: str, rows: Iterable[tuple[str, str]], run: Run) -> str:
    """Writes ``(address, image_id)`` rows if the file does not exist yet. Returns its URL."""
    listed = [{"address": place, "image_id": image_id} for place, image_id in sorted(rows)]
    table = pa.Table.from_pylist(listed, schema=arrow.stamp(GONE, "plans", run.fingerprint))
    url = files.join(run.folder, "gone", f"{part}.parquet")
    files.create(url, parquet.table_bytes(table))
    return url


def read_gone(run: Run) -> dict[str, str]:
    """Returns the run's gone rows as ``{address: image id}``."""
    found: dict[str, str] = {}
    for name in files.names(files.join(run.folder, "gone")):
        table = parquet.read_table(files.join(run.folder, "gone", name))
        found.update(zip(*(table.column(name).to_pylist() for name in GONE.names), strict=True))
    return found


def write_counts(counts: Mapping[str, int], run: Run) -> str:
    """Writes the number of images of each kind (new, changed, ...) if the file does not exist yet. Returns its URL.

    Those of OF_PROMPTS are written where there are any.
    """
    url = files.join(run.folder, "counts.json")
    found = {kind: counts.get(kind, 0) for kind in KINDS}
    found |= {name: counts[name] for name in OF_PROMPTS if counts.get(name)}
    files.create(url, files.json_bytes(found))
    return url


def read_counts(run: Run) -> dict[str, int]:
    """Returns the counts from ``write_counts``; empty for a run without a comparison."""
    try:
        return cast(dict[str, int], files.read_json(files.join(run.folder, "counts.json")))
    except FileNotFoundError:
        return {}


class NameSources(beam.PTransform[PBegin, PCollection[str]]):
    """PBegin -> ``names``, and the names of all sources that the features snapshot has had rows of."""

    def __init__(self, names: Sequence[str], features: Store | None = None) -> None:
        super().__init__()
        self._names, self._urls = list(names), _index_urls(features) if features else []

    def expand(self, start: PBegin) -> PCollection[str]:
        named = start | "NamedSources" >> beam.Create(self._names, reshuffle=False).with_output_types(str)
        found = (
            start
            | "NameIndexes" >> beam.Create(self._urls).with_output_types(str)
            | "SpreadIndexes" >> beam.Reshuffle()
            | "ReadSources" >> beam.FlatMap(across_workers(_sources_in)).with_output_types(str)
        )
        return (named, found) | beam.Flatten() | beam.Distinct()


def _index_urls(store: Store) -> list[str]:
    return [files.join(store.url, "index", shard["index"]) for shard in store.shards]


def _sources_in(url: str) -> list[str]:
    return cast(list[str], parquet.read_table(url, ["source"]).column("source").unique().to_pylist())


def sources_ever(store: Store) -> set[str]:
    """Returns the sources of all rows of a snapshot, including dead ones. Reads every index on the launcher."""
    with ThreadPoolExecutor(16) as pool:
        return {name for found in pool.map(_sources_in, _index_urls(store)) for name in found}


def sources_of(store: Store) -> set[str]:
    """Returns the sources of the live rows and failures of a snapshot. Reads every index on the launcher."""
    return {name for _, table in store.index() for name in table.column("source").unique().to_pylist()}
