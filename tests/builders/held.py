"""The memory that bundles at once take, printed: ``python held.py FOLDER BUNDLES``, each of 128 images of 1 MB."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from captionbeam.pipelines.bulk.plan import planned_shards, read_shard, write_plan
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.schemas.machine import peak_rss
from captionbeam.schemas.records import ImageRef
from tests.builders.runs import Mean, features_run

SHARD = 128


def main(folder: str, bundles: int) -> None:
    """Process eight shards, ``bundles`` at once."""
    run = features_run(folder)
    names = [f"{number:04d}.jpg" for number in range(8 * SHARD)]
    write_plan(run, "loose-0", [ImageRef(name, name, "/", "v") for name in names], SHARD)
    engine = Engine(Mean(batch_size=8), threads=1)

    def fetch(window: list[ImageRef]) -> list[bytes]:
        return [np.random.default_rng(int(ref.image_id[:4])).bytes(1 << 20) for ref in window]

    with ThreadPoolExecutor(bundles) as pool:
        list(
            pool.map(
                lambda shard: process_shard(shard.shard_id, read_shard(shard), engine, run, fetch),
                planned_shards(run),
            )
        )
    print(peak_rss())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
