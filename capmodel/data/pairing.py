"""Joins the rows of a features snapshot with the captions of a token table, by split.

Each run joins by image id, so a refreshed store or another token table needs no alignment on disk. Does not import
torch, so that a launcher can reject a wrong combination early.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.match_ids import match_images
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import RowGroup, Store


@dataclass(frozen=True)
class ImagePositions:
    """Positions of a snapshot's live images: image ``ids[i]`` is in row group ``group[i]`` at ``position[i]``.

    A position counts live rows only, like ``Store.read_row_group``.
    """

    groups: tuple[RowGroup, ...]
    ids: list[str]
    group: np.ndarray
    position: np.ndarray


@dataclass(frozen=True)
class Samples:
    """The images of one split, in storage order: row group, position in it, and row of the token table."""

    groups: tuple[RowGroup, ...]
    group: np.ndarray
    position: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, chosen: np.ndarray) -> Samples:
        """Returns the samples with these indexes, in that order."""
        return Samples(self.groups, self.group[chosen], self.position[chosen], self.row[chosen])

    def sample(self, count: int, seed: int) -> Samples:
        """Returns ``count`` samples drawn by ``seed``, in storage order; all of them if there are fewer."""
        if count >= len(self):
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.pick(np.sort(chosen))


def image_positions(store: Store) -> ImagePositions:
    """Returns the position of every live image of the snapshot, from the index alone."""
    groups = tuple(store.row_groups())
    names = (store.manifest.column(name).to_pylist() for name in ("shard", "data"))
    urls = {shard: files.join(store.url, "data", data) for shard, data in zip(*names, strict=True)}
    ids: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for shard, rows, found in _live_rows(store):
        ids += found
        parts.append(_locate(rows, urls[shard], groups))
    group, position = (np.concatenate([np.empty(0, np.int64), *part]) for part in zip(*parts, strict=True))
    return ImagePositions(groups, ids, group, position)


def pair(store: Store, table: TokenTable, max_missing: float) -> dict[str, Samples]:
    """Returns the samples of the splits ``train`` and ``val``.

    Raises RequestError if the store has no features, if more than ``max_missing`` of the images lack features or
    captions, or if a split is empty.
    """
    if store.kind != "features":
        raise RequestError(
            f"{store.url} is a store of {store.kind}; expected one of features (captionbeam encode)"
        )
    places = image_positions(store)
    matched = _matched(table, places)
    _check_missing(store, table, places.ids, matched, max_missing)
    return {split: _samples(split, store, table, places, matched) for split in ("train", "val")}


def identity_of(store: Store, table: TokenTable) -> dict[str, str]:
    """Returns the values that identify these data."""
    snapshot = f"{store.snapshot_id} of run {store.snapshot.run}"
    return {"features": store.fingerprint, "snapshot": snapshot, "tokens": table.sha256}


def _live_rows(store: Store) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """Yields the live data rows of each shard, ascending, and their image ids."""
    for shard, table in store.index():
        data = table.filter(pc.invert(table.column("failed"))).sort_by("row")
        if data.num_rows:
            yield shard, data.column("row").to_numpy(), data.column("image_id").to_pylist()


def _locate(rows: np.ndarray, url: str, groups: Sequence[RowGroup]) -> tuple[np.ndarray, np.ndarray]:
    own = np.array([number for number, group in enumerate(groups) if group.url == url])
    which = np.searchsorted([groups[number].start for number in own], rows, side="right") - 1
    first = np.searchsorted(which, which, side="left")
    return own[which], np.arange(len(rows)) - first


def _matched(table: TokenTable, places: ImagePositions) -> dict[str, str]:
    """Returns ``{the table's image id: the store's}``. Raises RequestError if two table ids match one image."""
    matched = match_images(table.rows, places.ids)
    taken: dict[str, str] = {}
    for image_id, partner in matched.items():
        other = taken.setdefault(partner, image_id)
        if other != image_id:
            raise RequestError(
                f"images {other!r} and {image_id!r} of {table.url} both fit image {partner!r} of the store; "
                "expected one row of captions an image"
            )
    return matched


def _check_missing(
    store: Store, table: TokenTable, ids: list[str], matched: dict[str, str], max_missing: float
) -> None:
    wanted = [*table.image_ids("train"), *table.image_ids("val")]
    no_features = [image_id for image_id in wanted if image_id not in matched]
    no_captions = sorted(set(ids).difference(matched.values()))
    images = len(ids) + len(no_features)
    if len(no_features) + len(no_captions) <= max_missing * images:
        return
    reasons = [
        f"{len(no_features)} with captions but no features in {store.url}, snapshot {store.snapshot_id}"
        f"{_example(no_features)}",
        f"{len(no_captions)} with features but no captions in {table.url}{_example(no_captions)}",
    ]
    raise RequestError(
        f"{len(no_features) + len(no_captions)} of {images} images lack their other half: {', '.join(reasons)}; "
        f"expected at most a share of {max_missing:g} (--max-missing)"
    )


def _example(missing: Iterable[str]) -> str:
    first = next(iter(missing), None)
    return "" if first is None else f" ({first!r} for one)"


def _samples(
    split: str, store: Store, table: TokenTable, places: ImagePositions, matched: dict[str, str]
) -> Samples:
    index = {image_id: place for place, image_id in enumerate(places.ids)}
    pairs = [
        (index[matched[image_id]], table.rows[image_id])
        for image_id in table.image_ids(split)
        if image_id in matched
    ]
    if not pairs:
        raise RequestError(
            f"no {split} image of {table.url} has features in {store.url}, snapshot {store.snapshot_id}; "
            f"expected features of both splits in one store"
        )
    place, row = np.array(pairs).T
    group, position = places.group[place], places.position[place]
    return Samples(places.groups, group, position, row).pick(np.lexsort((position, group)))
