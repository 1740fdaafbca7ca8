"""SkipDone: removes images that the run's frozen base already has from the listing."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Optional

import apache_beam as beam

from captionbeam.pipelines.bulk.run import Run, base_manifest
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.errors import RequestError, is_transient
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.records import ImageRef, address, named_place, named_places, superseded
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Dead, Store


class BaseRow(NamedTuple):
    """One row of the base: the image's version, and the row's address in case it is replaced.

    ``dead``: no snapshot shows the row any more. ``place``: a checksum of the image's location, which distinguishes
    images with the same former id. ``former``: the row's id, if the image now has another one.
    """

    version: Optional[str]
    failed: bool
    code: Optional[str]
    address: str
    replaces: str = ""
    source: str = ""
    dead: bool = False
    place: int = 0
    former: str = ""

    @property
    def named(self) -> str:
        """The name of this row in the ``replaces`` of its successor."""
        return named_place(self.address, self.former)


def decide(
    refs: Sequence[ImageRef], base: Sequence[BaseRow], retry_failures: bool = False
) -> ImageRef | None:
    """Returns the reference to process for one image id, with the addresses of the rows it replaces, or None.

    An image is done if the base has a row of the same version (any version if the source has none) or a permanent
    failure of it; rows under a former id do not count. An image that was deleted and is listed again replaces its
    dead rows, so its shard gets a new id. Raises RequestError for two images with one id.
    """
    if not refs:
        return None
    if len(refs) > 1:
        first, second = sorted(map(_shown, refs))[:2]
        raise RequestError(f"two images have the id {refs[0].image_id!r}: {first} and {second}; expected one")
    ref, live = refs[0], live_rows(base)
    if any(_is_done_by(row, ref, retry_failures) for row in live):
        return None
    return ref._replace(replaces=",".join(sorted(row.named for row in live or base)))


def _shown(ref: ImageRef) -> str:
    inside = (
        f" at byte {ref.offset}" if ref.kind in ("zip", "tar") else ""
    )  # names in an archive need not be unique
    return f"{ref.location}{inside} (in {ref.source})"


def live_rows(base: Sequence[BaseRow]) -> list[BaseRow]:
    """Returns the rows of ``base`` that are neither dead nor replaced by adopted rows."""
    rows = [row for row in base if not row.dead]
    dead = {place for row in rows for place in superseded(row.code, named_places(row.replaces))}
    return [row for row in rows if row.address not in dead]


def _is_done_by(row: BaseRow, ref: ImageRef, retry_failures: bool) -> bool:
    same = not row.former and (ref.version is None or row.version == ref.version)
    if not row.failed:
        return same
    return same and not retry_failures and not is_transient(row.code or "")


class JoinBase(beam.PTransform):
    """Takes images, returns ``(id, {"images": [...], "base": [...]})`` for each id in the listing or the run's base.

    Images that may have rows under a former id are also joined under that id. A second, small join adds those rows.
    """

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
        keyed = images | "KeyByImage" >> beam.FlatMap(lambda ref: [(name, ref) for name in names_of(ref)])
        joined = (
            {"images": keyed, "base": base}
            | beam.CoGroupByKey()
            | "FindRenamed" >> beam.FlatMap(across_workers(_by_name)).with_outputs("renamed", main="joined")
        )
        renamed = joined.renamed | beam.GroupByKey() | "MergeRenamed" >> beam.MapTuple(_merged)
        return (joined.joined, renamed) | "AllJoined" >> beam.Flatten()


def names_of(ref: ImageRef) -> list[str]:
    """Returns the ids under which an image may have rows."""
    return [ref.image_id, *filter(None, [ref.former])]


def _by_name(joined: tuple[str, Mapping[str, Iterable[Any]]]) -> Iterator[Any]:
    image_id, found = joined
    images, base = list(found["images"]), list(found["base"])
    if not any(ref.former for ref in images):
        yield image_id, {"images": images, "base": base}
        return
    for name, refs, rows in bring_home(image_id, images, base):
        if refs or rows:
            yield beam.pvalue.TaggedOutput("renamed", (name, (refs, rows)))


def bring_home(
    image_id: str, images: Sequence[ImageRef], base: Sequence[BaseRow]
) -> Iterator[tuple[str, list[ImageRef], list[BaseRow]]]:
    """Yields, for one id's images and rows, the rows of each image that now has another id, then the id's own."""
    left = list(base)
    for ref in images:
        if ref.image_id != image_id:
            rows = [row for row in base if _was_of(row, ref)]
            left = [row for row in left if row not in rows]
            yield ref.image_id, [], [row._replace(former=image_id) for row in rows]
    yield image_id, [ref for ref in images if ref.image_id == image_id], left


def _was_of(row: BaseRow, ref: ImageRef) -> bool:
    return row.version == ref.version and row.place == checksum(ref._replace(image_id=ref.former).location)


def checksum(location: str) -> int:
    """Returns a checksum of four bytes that distinguishes locations."""
    return zlib.crc32(location.encode())


def _merged(image_id: str, parts: Iterable[tuple[list[ImageRef], list[BaseRow]]]) -> tuple[str, Any]:
    images, base = zip(*parts, strict=True)
    return image_id, {"images": [*chain(*images)], "base": [*chain(*base)]}


class SkipDone(beam.PTransform):
    """Takes images, returns those to process: an anti-join on (image_id, version) with the run's base.

    ``retired``: sources that no longer exist, whose rows may be replaced.
    """

    def __init__(self, run: Run, retry_failures: bool = False, retired: Collection[str] = ()) -> None:
        super().__init__()
        self._run, self._retry, self._retired = run, retry_failures, frozenset(retired)

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        return (
            images
            | JoinBase(self._run)
            | "Decide"
            >> beam.FlatMap(
                across_workers(_decided), retry=self._retry, retired=self._retired
            ).with_output_types(ImageRef)
        )


def read_base(url: str, shard: str, dead_rows: Sequence[int], dead_failed: Sequence[int]) -> Iterator[tuple]:
    """Yields ``(image_id, BaseRow)`` for each row of one shard's index."""
    dead = Dead(frozenset(dead_rows), frozenset(dead_failed))
    for row in parquet.read_table(url).to_pylist():
        place = address(shard, row["row"], row["failed"])
        outcome = (row["version"], row["failed"], row["code"])
        is_dead = row["row"] in (dead.failed if row["failed"] else dead.rows)
        found = BaseRow(*outcome, place, row["replaces"], row["source"], is_dead, checksum(row["uri"]))
        yield row["image_id"], found


def _decided(joined: tuple[str, dict], retry: bool, retired: frozenset[str]) -> Iterable[ImageRef]:
    _, found = joined
    base = list(found["base"])
    ref = decide(list(found["images"]), base, retry)
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


def _index_files(run: Run) -> list[tuple[str, str, list[int], list[int]]]:
    deletes = Store.open(run.url, run.base).dead if run.base is not None else {}
    tasks = []
    for shard in base_manifest(run):
        dead = deletes.get(shard["shard"], Dead())
        url = files.join(run.url, "index", shard["index"])
        tasks.append((url, shard["shard"], sorted(dead.rows), sorted(dead.failed)))
    return tasks
