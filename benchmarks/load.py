"""What feeding a training run costs: the loader against a bare memory-mapped array of the same grids.

  python benchmarks/load.py --features features --tokens tokens

The first pass warms the page cache; processor time is of all threads. Both give batches of 32 in random order.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from capmodel.loader import CaptionTokens, FeatureReader
from capmodel.order import shuffled_steps
from capmodel.pairing import pair
from schemas import Store
from schemas.tokens import TokenTable

BATCH, MIX = 32, 16


def main() -> None:
    """Measure both, twice each, and print the second time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", required=True, metavar="STORE")
    parser.add_argument("--tokens", required=True, metavar="TOKENS")
    options = parser.parse_args()
    store, table = Store.open(options.features), TokenTable.open(options.tokens)
    reader = FeatureReader(store, CaptionTokens(table.table["tokens"]), pair(store, table, 1.0)["train"])
    images = len(reader.samples)
    measure("loader", images, lambda: read(reader))
    with tempfile.NamedTemporaryFile() as file:
        grids = np.memmap(file, np.float16, "w+", shape=(images, *reader.shape))
        fill(grids, reader)
        measure("memory map", images, lambda: gather(grids))


def measure(name: str, images: int, read_all: Callable[[], None]) -> None:
    """Print images/s and processor time an image of the second of two passes."""
    read_all()
    wall, cpu = time.perf_counter(), time.process_time()
    read_all()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {images / wall:,.0f} images/s, {1e3 * cpu / images:.3f} ms of processor time an image")


def read(reader: FeatureReader) -> None:
    """One epoch of the loader."""
    for _ in reader.batches(shuffled_steps(reader.samples.group, BATCH, MIX, seed=0, epoch=0)):
        pass


def fill(grids: np.memmap, reader: FeatureReader) -> None:
    """The same grids, in the order of their places."""
    steps = list(in_batches(np.arange(len(grids))))
    for rows, batch in zip(steps, reader.batches(steps), strict=True):
        grids[rows] = batch.features.numpy()


def gather(grids: np.memmap) -> None:
    """One epoch of the array."""
    for rows in in_batches(np.random.default_rng(0).permutation(len(grids))):
        np.asarray(grids[rows])


def in_batches(order: np.ndarray) -> Iterator[np.ndarray]:
    """``order`` cut into batches."""
    return (order[start : start + BATCH] for start in range(0, len(order), BATCH))


if __name__ == "__main__":
    main()
