"""StoredImages: the images of a snapshot's rows and failures as references, without listing their sources."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection

from captionbeam.pipelines.maintenance.retry_failures import with_coordinates
from captionbeam.pipelines.sources.images import parse_location
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.formats import kept, parquet
from captionbeam.schemas.records import ImageRef, address
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Dead, Store, live_index

Shard = tuple[str, str, str, Dead]  # the shard, URL of its index, of the kept columns or "", dead rows
CONTAINERS = ("zip", "tar")


class StoredImages(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """PBegin -> a reference to the image of each live row and failure of ``store``, with its version and kept columns.

    ``again``: ids of images whose rows are to be replaced although they are of this version: the references name them.
    The directory of each zip, and each tar, is read once. Raises SourceError if one cannot be read.
    """

    def __init__(self, store: Store, again: Collection[str] = ()) -> None:
        super().__init__()
        self._again = frozenset(again)
        self._shards: list[Shard] = [
            (
                shard["shard"],
                files.join(store.url, "index", shard["index"]),
                files.join(store.url, "columns", shard["columns"]) if shard["columns"] else "",
                store.dead_in(shard["shard"]),
            )
            for shard in store.shards
        ]

    def expand(self, begin: PBegin) -> PCollection[ImageRef]:
        images = (
            begin
            | "NameShards" >> beam.Create(self._shards)
            | "SpreadShards" >> beam.Reshuffle()
            | "ReadImages"
            >> beam.FlatMapTuple(across_workers(stored_images), again=self._again).with_output_types(ImageRef)
        )
        members = (
            images
            | "Members" >> beam.Filter(lambda ref: ref.kind in CONTAINERS)
            | "KeyByContainer" >> beam.Map(lambda ref: (ref.uri, ref))
            | "GroupMembers" >> beam.GroupByKey()
            | "LocateMembers"
            >> beam.FlatMapTuple(across_workers(located_members)).with_output_types(ImageRef)
        )
        others = images | "Others" >> beam.Filter(lambda ref: ref.kind not in CONTAINERS)
        found: PCollection[ImageRef] = (others, members) | "AllImages" >> beam.Flatten()
        return found


def stored_images(
    shard: str, index_url: str, columns_url: str, dead: Dead, again: Collection[str] = ()
) -> Iterator[ImageRef]:
    """Yields references to the images of one shard's live rows and failures; members without coordinates."""
    table = parquet.read_table(index_url)
    texts: pa.Array = pa.array([""] * table.num_rows, pa.string())
    if columns_url:
        texts = parquet.read_table(columns_url, [kept.TEXT]).column(0)
    for row in live_index(table.append_column(kept.TEXT, texts), dead).to_pylist():
        found = parse_location(row["uri"])._replace(
            image_id=row["image_id"], version=row["version"], source=row["source"], columns=row[kept.TEXT]
        )
        if row["image_id"] in again:
            found = found._replace(replaces=address(shard, row["row"], row["failed"]))
        yield found


def located_members(container: str, members: Iterable[ImageRef]) -> Iterator[ImageRef]:
    """Yields members of one container with their coordinates; those that have gone are ``missing``."""
    refs = list(members)
    found = {ref.image_id: ref for ref in with_coordinates(refs)}
    for ref in refs:
        now = found.get(ref.image_id, ref._replace(offset=-1))
        yield now._replace(version=ref.version)
