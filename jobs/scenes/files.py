"""The demo's data files: drawn scenes with five captions each, zipped, with captions in COCO's format.

    SCENES/train.zip  captions_train.json       training
    SCENES/val.zip    captions_val.json         validation
    SCENES/test.zip   captions_test.json        held out

A hash of the scene itself (numbers, colours, shapes and relation) decides its split, so no held-out scene is ever in
the training data. The same seed draws the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from captionbeam.jobs.scenes.drawing import draw_jpeg
from captionbeam.jobs.scenes.words import (
    ABOVE,
    COLOURS,
    LEFT,
    NUMBERS,
    SHAPES,
    Group,
    Scene,
    describe_often,
    is_right,
)
from captionbeam.schemas.storage import files

SPLITS = ("train", "val", "test")
SHARE_ALONE = 0.4
# one in eight of all possible scenes is for validation, one in eight is held out
_SPLIT_OF = ("test", "val", *["train"] * 6)
_ZIP_DATE = (2000, 1, 1, 0, 0, 0)


class Drawn(NamedTuple):
    """One picture: its name, scene, JPEG, size in pixels and captions."""

    name: str
    scene: Scene
    jpeg: bytes
    size: tuple[int, int]
    captions: list[str]


def split_of(scene: Scene) -> str:
    """Returns the split of this scene, which depends only on the scene."""
    digest = hashlib.sha256(json.dumps(scene.to_dict(), sort_keys=True).encode()).digest()
    return _SPLIT_OF[digest[0] % len(_SPLIT_OF)]


def random_scene(rng: random.Random) -> Scene:
    """Returns a random scene; two groups differ in colour and in shape."""
    first = Group(rng.randint(1, len(NUMBERS)), rng.choice(COLOURS), rng.choice(SHAPES))
    if rng.random() < SHARE_ALONE:
        return Scene(first)
    colour = rng.choice([other for other in COLOURS if other != first.colour])
    shape = rng.choice([other for other in SHAPES if other != first.shape])
    return Scene(first, rng.choice((ABOVE, LEFT)), Group(rng.randint(1, len(NUMBERS)), colour, shape))


def draw_scenes(split: str, count: int, seed: int = 0) -> Iterator[Drawn]:
    """Yields ``count`` pictures of scenes of one split."""
    for number in range(count):
        rng = random.Random(f"{seed}/{split}/{number}")
        scene = random_scene(rng)
        while split_of(scene) != split:
            scene = random_scene(rng)
        jpeg, size = draw_jpeg(scene, rng)
        yield Drawn(f"{split}_{number:06d}.jpg", scene, jpeg, size, describe_often(scene, rng))


def write_scenes(url: str, counts: Mapping[str, int], seed: int = 0) -> None:
    """Draws ``counts`` (split -> pictures) into the folder ``url``; each caption file is written after its pictures.

    A file with the same content is left as it is, so that its version stays the same.
    """
    first_id = 1
    for split, count in counts.items():
        drawn = list(draw_scenes(split, count, seed))
        _write_changed(files.join(url, f"{split}.zip"), _zipped(drawn))
        content = json.dumps(coco_format(drawn, first_id), indent=1).encode()
        _write_changed(files.join(url, f"captions_{split}.json"), content)
        first_id += count


def _write_changed(url: str, content: bytes) -> None:
    if not files.exists(url) or files.read_bytes(url) != content:
        files.write_atomic(url, content)


def coco_format(drawn: Iterable[Drawn], first_id: int = 1) -> dict[str, Any]:
    """Returns COCO's caption annotations; each image also has its ``scene``, for ``count_right``."""
    images, annotations = [], []
    for image_id, each in enumerate(drawn, start=first_id):
        images.append(
            {
                "id": image_id,
                "file_name": each.name,
                "width": each.size[0],
                "height": each.size[1],
                "scene": each.scene.to_dict(),
            }
        )
        annotations += [{"image_id": image_id, "caption": caption} for caption in each.captions]
    numbered = [
        {"id": number, **annotation} for number, annotation in enumerate(annotations, start=5 * first_id)
    ]
    about = {"description": "Scenes drawn by captionbeam demo", "license": "CC0-1.0"}
    return {"info": about, "images": images, "annotations": numbered}


def count_right(captions: Mapping[str, str], content: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the number of ``content``'s images with a correct caption in ``captions`` (by file name), and of all."""
    scenes = {image["file_name"]: Scene.from_dict(image["scene"]) for image in content["images"]}
    right = sum(is_right(captions.get(name, ""), scene) for name, scene in scenes.items())
    return right, len(scenes)


def _zipped(drawn: Iterable[Drawn]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for each in drawn:
            archive.writestr(zipfile.ZipInfo(each.name, _ZIP_DATE), each.jpeg)
    return target.getvalue()
