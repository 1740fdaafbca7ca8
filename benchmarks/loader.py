"""Training's reads: a features store against a memory-mapped array, WebDataset and MosaicML streaming.

    pip install -e ".[benchmarks]"          # in an environment of its own: the peers pin older libraries
    python benchmarks/loader.py --features features
    python benchmarks/loader.py --images 2000 --shape 8 8 2048          # made-up grids, half of their values zero

All sides give float16 batches of 32 grids as torch tensors, each grid once an epoch, in random order, with the
grid's number beside it. They read the same grids, from local files that the page cache holds:

store       ``FeatureReader`` over ``shuffled_steps``, as ``captionbeam train`` reads
cached      the same with ``captionbeam train --cache``
memory map  the loop of a script that keeps one ``.npy``: it gathers each batch's rows on the training thread
webdataset  raw bytes in tars of 256 grids; shuffled tars and a buffer of 1,000 grids; batched in the workers
streaming   an MDS dataset with ``ndarray:float16`` columns, uncompressed; ``shuffle=True``, shuffled by ``py1e``

The peers have as many workers as there are cores (--workers), which live on from epoch to epoch. Epochs of all
sides come in turn, --repeats times after one that warms up; what is printed are medians, and medians of the
ratios taken turn by turn. ``reading`` only reads; ``decoder`` takes one training step of a small attentive decoder
on each batch as well (one caption an image), the side's reads ahead running beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests.builders writes the store of made-up grids
from captionbeam.capmodel.data.cache import GridCache
from captionbeam.capmodel.data.loader import CaptionTokens, FeatureReader
from captionbeam.capmodel.data.pairing import Samples, image_positions
from captionbeam.capmodel.data.sampler import shuffled_steps
from captionbeam.schemas import Store

BATCH, MIX, WORDS, VOCABULARY = 32, 16, 12, 4000
Numbered = tuple[Tensor, Tensor]  # float16 [B, L, C], int64 [B]: the grids' numbers


class Side:
    """One way to keep and to read the same grids. ``epoch(n)`` gives the batches of the n-th epoch."""

    def __init__(self, name: str, epoch: Callable[[int], Iterator[Numbered]]) -> None:
        self.name, self.epoch = name, epoch


def main() -> None:
    """Print JSON, each part once it is measured."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="loader-", dir=options.scratch) as scratch:
        store = Store.open(options.features) if options.features else made_up(options, scratch)
        reader = reader_of(store, options.limit)
        sides = {name: SIDES[name](reader, scratch, options) for name in options.sides}
        check(sides)
        print(json.dumps({"grids": len(reader.samples), "shape": list(store.shape)}))
        print(json.dumps({"reading": summary(rounds(sides, options.repeats, exhaust), reader)}, indent=1))
        trained = {name: side for name, side in sides.items() if name in options.decoder}
        step = decoder_step(store.shape)
        print(json.dumps({"decoder": summary(rounds(trained, options.repeats, step), reader)}, indent=1))


def made_up(options: argparse.Namespace, scratch: str) -> Store:
    """Grids with half of their values zero, as after a ReLU, in a features store."""
    from captionbeam.schemas.formats import arrow
    from tests.builders.data.stores import make_store

    random, shape = np.random.default_rng(0), tuple(options.shape)

    class Grids(dict):
        def __getitem__(self, name: str) -> np.ndarray:
            return np.maximum(random.standard_normal(shape, np.float32), 0).astype(np.float16)

    names = Grids({f"{number:07d}.jpg": None for number in range(options.images)})
    field = arrow.grid_field("grid" if len(shape) == 3 else "pooled", shape)
    return make_store(f"{scratch}/store", "features", field, names, shard_size=1024)


def reader_of(store: Store, limit: int | None) -> FeatureReader:
    """Of all images of a store, or of ``limit`` of them; a sample's ``row`` is its number."""
    places = image_positions(store)
    samples = Samples(places.groups, places.group, places.position, np.arange(len(places.ids)))
    samples = samples.pick(np.arange(min(limit or len(samples), len(samples))))
    no_captions = CaptionTokens(_no_captions(len(places.ids)))
    return FeatureReader(store, no_captions, samples)


def _no_captions(images: int) -> Any:
    import pyarrow as pa

    return pa.chunked_array([pa.array([[]] * images, pa.list_(pa.list_(pa.int32())))])


def in_order(reader: FeatureReader) -> Iterator[np.ndarray]:
    """Every grid, float16 [L, C], by number: how the peers' files are written."""
    steps = np.array_split(np.arange(len(reader.samples)), max(1, len(reader.samples) // BATCH))
    for batch in reader.batches(steps):
        yield from batch.features.numpy()


def store_side(reader: FeatureReader, scratch: str, options: argparse.Namespace) -> Side:
    """The store's own reader."""

    def epoch(number: int) -> Iterator[Numbered]:
        steps = shuffled_steps(reader.samples.group, BATCH, MIX, seed=0, epoch=number)
        for batch in reader.batches(steps):
            yield batch.features, torch.from_numpy(batch.rows)

    return Side("store", epoch)


def cached_side(reader: FeatureReader, scratch: str, options: argparse.Namespace) -> Side:
    """The store's own reader, with a cache that its first epoch fills."""
    cache = GridCache(f"{scratch}/cache", reader.store, reader.samples.groups)
    side = store_side(FeatureReader(reader.store, reader.tokens, reader.samples, cache), scratch, options)
    return Side("cached", side.epoch)


def map_side(reader: FeatureReader, scratch: str, options: argparse.Namespace) -> Side:
    """One array in one file."""
    path, shape = f"{scratch}/grids.npy", (len(reader.samples), *reader.shape)
    grids = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    for number, grid in enumerate(in_order(reader)):
        grids[number] = grid
    grids.flush()
    mapped = np.load(path, mmap_mode="r")

    def epoch(number: int) -> Iterator[Numbered]:
        order = np.random.default_rng(number).permutation(len(mapped))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            yield torch.from_numpy(mapped[rows]), torch.from_numpy(rows)

    return Side("memory map", epoch)


def webdataset_side(reader: FeatureReader, scratch: str, options: argparse.Namespace) -> Side:
    """Tars of raw grids, read as WebDataset's documentation has it: batched in the workers of a WebLoader."""
    import webdataset as wds

    pattern = f"{scratch}/wds-%05d.tar"
    with wds.ShardWriter(pattern, maxcount=256, verbose=0) as writer:
        for number, grid in enumerate(in_order(reader)):
            writer.write({"__key__": f"{number:07d}", "grid": grid.tobytes(), "number": str(number)})
    shape = reader.shape

    def parsed(sample: tuple[bytes, bytes]) -> Numbered:
        grid = torch.frombuffer(bytearray(sample[0]), dtype=torch.float16).view(shape)
        return grid, torch.tensor(int(sample[1]))

    tars = sorted(str(path) for path in Path(scratch).glob("wds-*.tar"))
    dataset = (
        wds.WebDataset(tars, shardshuffle=len(tars), seed=0)
        .shuffle(1000)
        .to_tuple("grid", "number")
        .map(parsed)
        .batched(BATCH)
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=min(options.workers, len(tars)), persistent_workers=True
    )
    return Side("webdataset", lambda _: ((grids, numbers) for grids, numbers in loader))


def streaming_side(reader: FeatureReader, scratch: str, options: argparse.Namespace) -> Side:
    """Shards of MDS, read as MosaicML's documentation has it: a StreamingDataset with its own loader."""
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    folder, (cells, channels) = f"{scratch}/mds", reader.shape
    columns = {"grid": f"ndarray:float16:{cells},{channels}", "number": "int"}
    with MDSWriter(out=folder, columns=columns) as writer:
        for number, grid in enumerate(in_order(reader)):
            writer.write({"grid": grid, "number": number})
    dataset = StreamingDataset(local=folder, shuffle=True, batch_size=BATCH)
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=options.workers, persistent_workers=True
    )
    return Side("streaming", lambda _: ((batch["grid"], batch["number"]) for batch in loader))


SIDES = {
    "store": store_side,
    "cached": cached_side,
    "map": map_side,
    "webdataset": webdataset_side,
    "streaming": streaming_side,
}


def check(sides: Mapping[str, Side]) -> None:
    """One epoch of each side, which also warms it up: all grids, each once, the same on all sides."""
    found = {name: _sums(side) for name, side in sides.items()}
    first, *others = found.values()
    for name, sums in zip(list(found)[1:], others, strict=True):
        if sums != first:
            raise SystemExit(f"{name} gives other grids than {next(iter(found))}")


def _sums(side: Side) -> dict[int, float]:
    sums: dict[int, float] = {}
    for grids, numbers in side.epoch(0):
        for number, total in zip(numbers.tolist(), grids.flatten(1).sum(1, dtype=torch.float64), strict=True):
            if number in sums:
                raise SystemExit(f"{side.name} gives grid {number} twice")
            sums[number] = total.item()
    return sums


def exhaust(grids: Tensor, numbers: Tensor) -> None:
    """Do nothing with a batch."""


def decoder_step(shape: tuple[int, ...]) -> Callable[[Tensor, Tensor], None]:
    """One step of Adam on a small attentive decoder, a caption of WORDS words for each image."""
    from captionbeam.capmodel.decoders import DecoderConfig, make_decoder

    sizes = {"embed_dim": 64, "hidden_dim": 128, "attention_dim": 64, "feature_dim": 128}
    decoder = make_decoder(DecoderConfig(VOCABULARY, shape, max_length=WORDS + 2, **sizes)).train()
    optimizer = torch.optim.Adam(decoder.parameters(), fused=True)
    words = torch.randint(4, VOCABULARY, (BATCH, 1, WORDS + 1), generator=torch.Generator().manual_seed(0))

    def step(grids: Tensor, numbers: Tensor) -> None:
        tokens, targets = words[: len(grids), :, :-1], words[: len(grids), :, 1:]
        decoder.loss(grids, tokens, targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rounds(
    sides: Mapping[str, Side], repeats: int, use: Callable[[Tensor, Tensor], None]
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of an epoch, by the clock and of all processors, by side, ``repeats`` times in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            began, used = time.perf_counter(), processor_seconds()
            for grids, numbers in side.epoch(turn + 1):
                use(grids, numbers)
            taken[name].append((time.perf_counter() - began, processor_seconds() - used))
    return taken


def processor_seconds() -> float:
    """Of this process and the peers' workers, which live on."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def summary(taken: Mapping[str, list[tuple[float, float]]], reader: FeatureReader) -> dict[str, Any]:
    """Medians: seconds an epoch, grids a second, and a side's time as a share of each other's, turn by turn.

    ``processor``: of the seconds of all processors, which a machine that is busy otherwise blurs less.
    """
    clock = {name: [seconds for seconds, _ in turns] for name, turns in taken.items()}
    cores = {name: [seconds for _, seconds in turns] for name, turns in taken.items()}
    return {
        name: {
            "seconds": round(statistics.median(clock[name]), 3),
            "grids_per_second": round(len(reader.samples) / statistics.median(clock[name])),
            "takes": {other: _ratio(clock[name], clock[other]) for other in taken if other != name},
            "processor_seconds": round(statistics.median(cores[name]), 3),
            "processor": {other: _ratio(cores[name], cores[other]) for other in taken if other != name},
        }
        for name in taken
    }


def _ratio(seconds: list[float], others: list[float]) -> float:
    return round(statistics.median(a / max(b, 1e-9) for a, b in zip(seconds, others, strict=True)), 3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", metavar="STORE", help="a features store (default: made-up grids)")
    parser.add_argument("--images", type=int, default=2000, help="of made-up grids (default 2000)")
    parser.add_argument("--shape", type=int, nargs="+", default=[8, 8, 2048], help="of made-up grids")
    parser.add_argument("--limit", type=int, help="only so many grids of the store")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the peers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the decoder")
    parser.add_argument(
        "--decoder",
        nargs="*",
        default=["store", "cached", "map"],
        choices=list(SIDES),
        help="the sides whose epochs are taken with a decoder's steps too (default store cached map)",
    )
    parser.add_argument("--scratch", help="a folder for the peers' files (default: the temporary one)")
    return parser


if __name__ == "__main__":
    main()
