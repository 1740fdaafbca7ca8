"""The demo's scenes: drawn as they are said to be, captioned truthfully, and never leaked between splits."""

from __future__ import annotations

import io
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captionbeam.jobs.scenes.drawing import HUES, draw_jpeg
from captionbeam.jobs.scenes.files import draw_scenes, random_scene, split_of, write_scenes
from captionbeam.jobs.scenes.words import ABOVE, Scene, describe, describe_often, is_right

seeds = st.integers(0, 2**32)


def scene_of(seed: int) -> Scene:
    return random_scene(random.Random(seed))


class TestWords:
    @given(seeds)
    def test_every_caption_is_right_about_its_scene(self, seed):
        rng = random.Random(seed)
        scene = random_scene(rng)
        captions = describe_often(scene, rng)
        assert len(set(captions)) == 5
        assert all(is_right(caption, scene) for caption in captions)

    @given(seeds, seeds)
    def test_no_caption_is_right_about_another_scene(self, one, other):
        caption = describe(scene_of(one), random.Random(one))
        assert is_right(caption, scene_of(other)) == (scene_of(one) == scene_of(other))


def places(jpeg: bytes, colour: str) -> list[tuple[float, float]]:
    """The centres (x, y) of the separate patches of ``colour``, found by their hue."""
    small = Image.open(io.BytesIO(jpeg)).convert("HSV").reduce(2)
    hue, saturation, value = np.moveaxis(np.asarray(small, dtype=float) / 255, 2, 0)
    away = np.abs((hue - HUES[colour] + 0.5) % 1 - 0.5)
    left = {(x, y) for y, x in np.argwhere((away < 0.035) & (saturation > 0.6) & (value > 0.5))}
    found = []
    while left:
        patch, edge = [], [left.pop()]
        while edge:
            x, y = edge.pop()
            patch.append((x, y))
            near = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        if len(patch) > 30:
            found.append((sum(x for x, _ in patch) / len(patch), sum(y for _, y in patch) / len(patch)))
    return found


class TestDrawing:
    @settings(max_examples=25, deadline=None)
    @given(seeds)
    def test_the_picture_shows_what_the_scene_says(self, seed):
        rng = random.Random(seed)
        scene = random_scene(rng)
        jpeg, size = draw_jpeg(scene, rng)
        assert Image.open(io.BytesIO(jpeg)).size == size
        first = places(jpeg, scene.first.colour)
        assert len(first) == scene.first.number
        if scene.second is not None:
            second = places(jpeg, scene.second.colour)
            assert len(second) == scene.second.number
            axis = 1 if scene.relation == ABOVE else 0
            assert max(place[axis] for place in first) < min(place[axis] for place in second)


class TestSet:
    def test_no_scene_is_in_two_splits(self):
        scenes = {
            split: {drawn.scene for drawn in draw_scenes(split, 30)} for split in ("train", "val", "test")
        }
        assert all(split_of(scene) == split for split, several in scenes.items() for scene in several)
        assert not scenes["train"] & scenes["test"]

    def test_the_same_seed_draws_the_same_bytes(self, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            write_scenes(str(tmp_path / name), {"train": 3, "test": 2}, seed)
        bytes_of = {
            name: [(tmp_path / name / file).read_bytes() for file in ("train.zip", "captions_test.json")]
            for name in "abc"
        }
        assert bytes_of["a"] == bytes_of["b"]
        assert bytes_of["a"] != bytes_of["c"]


def test_scenes_that_are_there_are_left_as_they_are(tmp_path):
    """Sources and captions keep their versions, so that later steps have nothing to do."""
    write_scenes(str(tmp_path), {"train": 2, "val": 1})
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_scenes(str(tmp_path), {"train": 2, "val": 2})
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    changed = {name for name in after if before[name] != after[name]}
    assert changed == {"val.zip", "captions_val.json"}
