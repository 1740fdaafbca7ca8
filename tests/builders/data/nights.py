"""Drawn scenes in a folder, and a tiny bundle for their features: what schedules keep up to date."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from captionbeam.jobs.scenes.files import draw_scenes
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from tests.builders.model.models import bundle_for
from tests.builders.running.zygote import captionbeam

ENCODER = "--encoder efficientnet_lite0 --image-size 96 --precision fp32"


class Place(NamedTuple):
    """Where a schedule finds its images and keeps its stores."""

    folder: Path

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def captions(self) -> Path:
        return self.folder / "captions"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def names(self) -> set[str]:
        return {path.name for path in self.photos.iterdir()}

    def options(self, shard_size: int = 2, tag: bool = True) -> list[object]:
        """Of ``captionbeam schedule``: features, then captions of them, then the tag."""
        return [self.photos, "--features", self.features, f"--features-options={ENCODER} --shard-size {shard_size}",
                "--captions", self.captions, "--bundle", self.bundle, "--captions-options=--beam 2",
                *(["--promote", "prod"] if tag else [])]  # fmt: skip

    def check(self, images: set[str] | None = None) -> None:
        """Both stores have each image once, and nothing is wrong with them."""
        for store in (self.features, self.captions):
            check_store(store, self.names() if images is None else images)


def check_store(url: Path, images: set[str]) -> None:
    """The store has each of ``images`` once, no failure, and nothing is wrong with any of its files."""
    store = Store.open(str(url))
    rows = Counter(name for batch in store.scan(["image_id"]) for name in batch.column(0).to_pylist())
    assert rows == Counter(images)
    assert store.failures().num_rows == 0
    assert verify(str(url)).problems == []


def data_files(store: Path) -> dict[str, str]:
    """Every data file of a store with its hash."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (store / "data").iterdir()}


def draw(folder: Path, count: int, split: str = "train") -> list[Path]:
    """``count`` scenes as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for drawn in draw_scenes(split, count):
        paths.append(folder / drawn.name)
        paths[-1].write_bytes(drawn.jpeg)
    return paths


def make_place(folder: Path, images: int = 8) -> Place:
    """Scenes and a bundle; the stores are not there yet."""
    place = Place(folder)
    draw(place.photos, images)
    (folder / "one").mkdir()
    (folder / "one" / "a.jpg").write_bytes(next(iter(sorted(place.photos.iterdir()))).read_bytes())
    captionbeam("encode", folder / "one", "--output", folder / "trial", *ENCODER.split())
    bundle_for(folder / "trial", place.bundle)
    return place
