"""The demo's own data: drawn scenes with five captions each, in COCO's format, zipped.

    SCENES/train.zip  captions_train.json       to learn from
    SCENES/val.zip    captions_val.json         to watch the training with
    SCENES/test.zip   captions_test.json        held out: no model sees them before it captions them

Which split a scene belongs to is decided by a hash of the scene itself (its numbers, colours, shapes and how
they lie), so that no held-out scene is ever among those for training, drawn anew or not. The same seed draws
the same bytes.
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
# of all scenes that there are: one in eight is for watching, one in eight held out
_SPLIT_OF = ("test", "val", *["train"] * 6)
_ZIP_DATE = (2000, 1, 1, 0, 0, 0)


class Drawn(NamedTuple):
    """One picture: its name, what it shows, the JPEG, its size in pixels, its captions."""

    name: str
    scene: Scene
    jpeg: bytes
    size: tuple[int, int]
    captions: list[str]


def split_of(scene: Scene) -> str:
    """The split that this scene belongs to, wherever it is drawn."""
    digest = hashlib.sha256(json.dumps(scene.to_dict(), sort_keys=True).encode()).digest()
    return _SPLIT_OF[digest[0] % len(_SPLIT_OF)]


def random_scene(rng: random.Random) -> Scene:
    """Any scene; where it has two groups, they differ in colour and in shape."""
    first = Group(rng.randint(1, len(NUMBERS)), rng.choice(COLOURS), rng.choice(SHAPES))
    if rng.random() < SHARE_ALONE:
        return Scene(first)
    colour = rng.choice([other for other in COLOURS if other != first.colour])
    shape = rng.choice([other for other in SHAPES if other != first.shape])
    return Scene(first, rng.choice((ABOVE, LEFT)), Group(rng.randint(1, len(NUMBERS)), colour, shape))


def draw_scenes(split: str, count: int, seed: int = 0) -> Iterator[Drawn]:
    """``count`` pictures of scenes of one split."""
    for number in range(count):
        rng = random.Random(f"{seed}/{split}/{number}")
        scene = random_scene(rng)
        while split_of(scene) != split:
            scene = random_scene(rng)
        jpeg, size = draw_jpeg(scene, rng)
        yield Drawn(f"{split}_{number:06d}.jpg", scene, jpeg, size, describe_often(scene, rng))


def write_scenes(url: str, counts: Mapping[str, int], seed: int = 0) -> None:
    """Draw ``counts`` (split -> pictures) into the folder ``url``; each caption file follows its pictures."""
    first_id = 1
    for split, count in counts.items():
        drawn = list(draw_scenes(split, count, seed))
        files.write_atomic(files.join(url, f"{split}.zip"), _zipped(drawn))
        content = json.dumps(coco_format(drawn, first_id), indent=1).encode()
        files.write_atomic(files.join(url, f"captions_{split}.json"), content)
        first_id += count


def coco_format(drawn: Iterable[Drawn], first_id: int = 1) -> dict[str, Any]:
    """COCO's caption annotations; each image also says its ``scene``, which ``count_right`` reads."""
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
    """How many of ``content``'s images have a right one in ``captions`` (by file name), and of how many."""
    scenes = {image["file_name"]: Scene.from_dict(image["scene"]) for image in content["images"]}
    right = sum(is_right(captions.get(name, ""), scene) for name, scene in scenes.items())
    return right, len(scenes)


def _zipped(drawn: Iterable[Drawn]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for each in drawn:
            archive.writestr(zipfile.ZipInfo(each.name, _ZIP_DATE), each.jpeg)
    return target.getvalue()
