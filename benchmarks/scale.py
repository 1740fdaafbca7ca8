"""What planning costs by image: FindImages -> SkipDone -> PlanShards over a synthetic listing, with a worker that
sees nothing.

    python benchmarks/scale.py --images 1000000 --changed 0.01

Three runs on one store, on the runner that Beam's options name (the in-process one by default), each in a process of
its own: all images new; all done; a share changed. The worker is the real ``process_shard`` with a processor that
gives each image one number, so that commits, indexes, manifests and snapshots are the real ones. Printed for each:
seconds, images/s, and peak resident memory; and once the bytes that a reference takes in a shuffle and in the plan.
``--columns N`` keeps N small columns of the listing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import psutil
import pyarrow as pa
from apache_beam import coders

from captionbeam.pipelines.bulk.find import draw
from captionbeam.pipelines.bulk.kept_schema import write_kept_schema
from captionbeam.pipelines.bulk.plan import PlanShards
from captionbeam.pipelines.bulk.publish import PublishSnapshot
from captionbeam.pipelines.bulk.run import start_run
from captionbeam.pipelines.bulk.skip import SkipDone
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.pipelines.workers.transforms import ProcessShards
from captionbeam.schemas import Store
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.kept import packed
from captionbeam.schemas.records import ImageRef

PIECE = 10_000
VALUES = {
    "sku": "A-000123456", "price": 129.5, "category": "shoes", "brand": "Example", "licence": "CC-BY-4.0",
    "in_stock": True, "country": "DE", "colour": "dark red", "listed": "2026-11-30", "rank": 123_456,
}  # fmt: skip
FIELD = arrow.grid_field("pooled", (1,))


class Nothing:
    """A processor whose features are a zero."""

    schema, fingerprint, batch_size, streams = pa.schema([FIELD]), "", 1024, 1

    def prepare(self, item: bytes) -> int:
        return 0

    def run(self, batch: Sequence[int], image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        return {"pooled": np.zeros((len(batch), 1), np.float16)}


class NothingJob:
    """What a worker loads."""

    def load(self, threads: int, processes: int = 1) -> Nothing:
        return Nothing()


def fetch_nothing(refs: Sequence[ImageRef]) -> list[bytes]:
    """A window of empty files."""
    return [b""] * len(refs)


def kept_values(count: int) -> dict[str, object]:
    """The first ``count`` of VALUES."""
    return dict(itertools.islice(VALUES.items(), count))


def list_piece(piece: int, images: int, changed: float, columns: int = 0) -> Iterator[ImageRef]:
    """One page of a bucket's listing; of a share of the images a newer generation; each with ``columns`` columns."""
    beside = packed(kept_values(columns))
    for number in range(piece * PIECE, min(images, (piece + 1) * PIECE)):
        name = f"{number // 1000:07d}/{number:012d}.jpg"
        generation = "1763950000000001" if draw(name, 0) < changed else "1763950000000000"
        yield ImageRef(
            name, f"gs://photographs/{name}", "gs://photographs", generation, length=100_000, columns=beside
        )


def run_once(options: argparse.Namespace, beam_args: Sequence[str]) -> None:
    """One run; prints what it planned."""
    run = start_run(
        options.store, "features", {"name": "nothing"}, "0" * 32, FIELD, keeps=options.columns > 0
    )
    if run.keeps:
        write_kept_schema(run, pa.Table.from_pylist([kept_values(options.columns)]).schema)

    def build(pipeline: beam.Pipeline) -> None:
        pieces = range(-(-options.images // PIECE))
        images = (
            pipeline
            | beam.Create(pieces)
            | beam.Reshuffle()
            | beam.FlatMap(list_piece, options.images, options.changed, options.columns).with_output_types(
                ImageRef
            )
        )
        todo, _ = images | SkipDone(run)
        shards = todo | PlanShards(run, 1024)
        reports = shards | ProcessShards(run, NothingJob(), fetch_nothing)
        _ = reports | PublishSnapshot(run)

    start = time.perf_counter()
    run_pipeline(beam_args, build)
    print(json.dumps({"seconds": time.perf_counter() - start, "rows": Store.open(run.url).count()}))


def measure(options: argparse.Namespace, beam_args: Sequence[str], changed: float) -> dict[str, float]:
    """``run_once`` in a process of its own."""
    words = ["--store", options.store, "--images", str(options.images), "--changed", str(changed), "--once"]
    words += ["--columns", str(options.columns)]
    command = [sys.executable, __file__, *words, *beam_args]
    child, peak = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), 0
    while child.poll() is None:
        peak = max(peak, psutil.Process(child.pid).memory_info().rss)
        time.sleep(0.2)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {child.returncode}")
    found = json.loads((child.stdout or sys.stdin).read().splitlines()[-1])
    assert found["rows"] == options.images, found
    rate = options.images / found["seconds"]
    return {
        "seconds": round(found["seconds"], 1),
        "images_per_second": round(rate),
        "peak_rss_mb": peak >> 20,
    }


def sizes(store: str, images: int, columns: int) -> dict[str, float]:
    """Bytes by reference: in a shuffle, keyed by image and by partition, in the plan, and in the index."""
    (ref,) = list(list_piece(0, 1, 0.0, columns))
    row = coders.registry.get_coder(ImageRef)
    keyed = coders.TupleCoder([coders.StrUtf8Coder(), row])
    total = {
        name: sum(path.stat().st_size for path in Path(store).glob(name))
        for name in ("plans/*/parts/*", "index/*", "columns/*")
    }
    return {
        "shuffled_by_image": len(keyed.encode((ref.image_id, ref))),
        "shuffled_by_partition": len(keyed.encode(("loose-1", ref))),
        "plan": round(total["plans/*/parts/*"] / images, 1),
        "index": round(total["index/*"] / images, 1),
        "columns": round(total["columns/*"] / images, 1),
    }


def main() -> None:
    """Print one JSON object."""
    options, beam_args = _parser().parse_known_args()
    if options.once:
        run_once(options, beam_args)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        options.store = options.store or f"{folder}/store"
        figures = {"all new": measure(options, beam_args, 0.0)}
        figures["bytes a reference"] = sizes(options.store, options.images, options.columns)
        figures["all done"] = measure(options, beam_args, 0.0)
        figures[f"{options.changed:.0%} changed"] = measure(options, beam_args, options.changed)
        print(json.dumps({"images": options.images, **figures}, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--changed", type=float, default=0.01, help="share of the third run (default 0.01)")
    parser.add_argument("--columns", type=int, default=0, help="kept columns, at most 10 (default 0)")
    parser.add_argument("--store", help="where; else a folder that is thrown away")
    parser.add_argument("--scratch")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
