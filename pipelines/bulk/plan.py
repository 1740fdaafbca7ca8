"""PlanShards: groups references into shards, contiguous in their container, by a plan that is written once.

A runner may repeat a step, including the listing. The plan that is written first is used by all repetitions. This
applies to the number of partitions of loose files and to the shards of each partition.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList, AsSingleton, PCollection
from apache_beam.transforms import combiners

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.sources.parquet import LARGE_GROUP
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.records import CONTENT_MARK, ImageRef, Shard
from captionbeam.schemas.storage import files

SHARDS_PER_PARTITION = 16
RowGroup = tuple[str, int]  # file, row group number
REF_COLUMNS = [name for name in ImageRef._fields if name in arrow.PLAN.names]


def shard_id(refs: Iterable[ImageRef], fingerprint: str) -> str:
    """Returns 40 hexadecimal digits: the hash of the sorted (image_id, version, replaced rows) and the fingerprint.

    It includes the replaced rows, so that processing an image again gives another shard id.
    """
    digest = hashlib.sha256(fingerprint.encode())
    for line in sorted(json.dumps([ref.image_id, ref.version, ref.replaces]) for ref in refs):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:40]


def partition_of(ref: ImageRef, partitions: int) -> str:
    """Returns the container's name, or for a loose file one of ``partitions`` names by hash of its digest or id.

    References with a content digest (SHA-256) are also partitioned by it, so copies from different containers meet.
    """
    if ref.kind != "file" and not ref.digest.startswith(CONTENT_MARK):
        return ref.uri
    key = (ref.digest or ref.image_id).encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return f"loose-{number % partitions}"


def partitions_for(images: int, shard_size: int) -> int:
    """Returns the number of partitions for loose files, with about 16 shards in each."""
    return max(1, -(-images // (shard_size * SHARDS_PER_PARTITION)))


def cut(refs: Iterable[ImageRef], shard_size: int) -> list[list[ImageRef]]:
    """Cuts one partition's references into pieces of nearly equal size, at most ``shard_size``.

    They are in reading order, except that copies (same content by the listing) follow the first one. Copies thus
    share a shard unless a piece ends between them. A large Parquet row group has its own pieces.
    """
    ordered = _copies_together(sorted(refs, key=_place))
    large = _large_groups(ordered)
    parts = itertools.groupby(ordered, lambda ref: _group_of(ref, large))
    return [piece for _, part in parts for piece in _even_pieces(list(part), shard_size)]


def _even_pieces(refs: list[ImageRef], shard_size: int) -> list[list[ImageRef]]:
    pieces = -(-len(refs) // shard_size)
    bounds = [round(piece * len(refs) / pieces) for piece in range(pieces + 1)]
    return [refs[start:end] for start, end in itertools.pairwise(bounds)]


def _large_groups(refs: Iterable[ImageRef]) -> set[RowGroup]:
    """Returns the row groups from which more must be read for these references than is kept in memory."""
    return {
        (ref.uri, ref.offset)
        for ref in refs
        if ref.kind == "parquet" and ref.size * (ref.length + 1) > LARGE_GROUP
    }


def _group_of(ref: ImageRef, large: Collection[RowGroup]) -> RowGroup | None:
    """Returns the large row group of ``ref`` if it is read in order; copies are not."""
    group = (ref.uri, ref.offset)
    return group if ref.kind == "parquet" and not ref.digest and group in large else None


def _place(ref: ImageRef) -> tuple[str, int, int, str]:
    return ref.uri if ref.kind != "file" else "", ref.offset, ref.length, ref.image_id


def _copies_together(ordered: list[ImageRef]) -> list[ImageRef]:
    groups: dict[object, list[ImageRef]] = {}
    for position, ref in enumerate(ordered):
        known = (
            (ref.uri, ref.version) if ref.kind == "zip" else position
        )  # a zip member's version is CRC and size
        groups.setdefault(ref.digest or known, []).append(ref)
    return list(itertools.chain.from_iterable(groups.values()))


def write_plan(run: Run, partition: str, refs: Iterable[ImageRef], shard_size: int) -> list[Shard]:
    """Returns the shards of one partition: the existing plan, or a new one that is written if none exists."""
    name = hashlib.sha256(partition.encode()).hexdigest()[:24]
    url = files.join(run.folder, "parts", f"{name}.parquet")
    if files.exists(url):
        return read_plan(url)
    shards = cut(refs, shard_size)
    files.create(url, _plan_bytes(shards, run.fingerprint))
    return read_plan(url)


def read_plan(url: str) -> list[Shard]:
    """Returns the shards of one plan file."""
    with _open_plan(url) as plan:
        shards = []
        for group in range(plan.metadata.num_row_groups):
            rows = plan.read_row_group(group, columns=["shard", "follows"])
            shards.append(Shard(rows["shard"][0].as_py(), url, group, len(rows), rows["follows"][0].as_py()))
        return shards


def sequences(shards: Iterable[Shard]) -> list[list[Shard]]:
    """Groups shards that one worker processes in order.

    Shards of one large row group form a sequence, so that it is read once. Other shards are alone.
    """
    found: list[list[Shard]] = []
    for shard in shards:
        if shard.follows:
            found[-1].append(shard)
        else:
            found.append([shard])
    return found


def read_shard(shard: Shard) -> list[ImageRef]:
    """Returns the references of one shard from its plan."""
    with _open_plan(shard.plan) as plan:
        table = plan.read_row_group(shard.row_group, columns=REF_COLUMNS)
        return [ImageRef(**row) for row in table.to_pylist()]


def planned_shards(run: Run) -> list[Shard]:
    """Returns all shards of the run's plan."""
    folder = files.join(run.folder, "parts")
    return [
        shard
        for name in files.names(folder)
        if name.endswith(".parquet")
        for shard in read_plan(files.join(folder, name))
    ]


def _open_plan(url: str) -> pq.ParquetFile:
    fs, path = files.split(url)
    plan = pq.ParquetFile(fs.open(path, "rb"))
    arrow.check_version(plan.schema_arrow.metadata, url)
    return plan


def _plan_bytes(shards: Sequence[Sequence[ImageRef]], fingerprint: str) -> bytes:
    schema = arrow.stamp(arrow.PLAN, "plan", fingerprint)
    sink = pa.BufferOutputStream()
    large, before = _large_groups(itertools.chain.from_iterable(shards)), None
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for refs in shards:
            name, group = shard_id(refs, fingerprint), _group_of(refs[0], large)
            follows, before = group is not None and group == before, _group_of(refs[-1], large)
            rows = [{"shard": name, "follows": follows, **ref._asdict()} for ref in refs]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=len(rows))
    return bytes(sink.getvalue())


class PlanShards(beam.PTransform[PCollection[ImageRef], PCollection[list[Shard]]]):
    """Takes references, returns ``sequences`` of ``Shard`` pointers, distributed over the workers.

    ``after``: a collection that is complete before any shard is planned.
    """

    def __init__(self, run: Run, shard_size: int, after: PCollection[object] | None = None) -> None:
        super().__init__()
        self._run, self._size, self._after = run, shard_size, after

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[list[Shard]]:
        run, size = self._run, self._size
        partitions = (
            refs
            | "CountImages" >> combiners.Count.Globally()
            | "FixPartitions" >> beam.Map(across_workers(fix_partitions), run=run, shard_size=size)
        )
        if self._after is not None:
            partitions = partitions | "AwaitRecords" >> beam.Map(lambda n, _: n, AsList(self._after))
        return (
            refs
            | "KeyByPartition"
            >> beam.Map(lambda ref, n: (partition_of(ref, n), ref), AsSingleton(partitions))
            | beam.GroupByKey()
            | "WritePlan"
            >> beam.FlatMap(across_workers(_planned), run=run, shard_size=size).with_output_types(list[Shard])
            | "SpreadShards" >> beam.Reshuffle()
        )


def fix_partitions(images: int, run: Run, shard_size: int) -> int:
    """Returns the number of partitions for loose files, the same in every repetition."""
    url = files.join(run.folder, "partitions.json")
    files.create(url, files.json_bytes({"images": images, "partitions": partitions_for(images, shard_size)}))
    return int(files.read_json(url)["partitions"])


def _planned(group: tuple[str, Iterable[ImageRef]], run: Run, shard_size: int) -> Iterator[list[Shard]]:
    yield from sequences(write_plan(run, *group, shard_size))
