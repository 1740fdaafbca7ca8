"""Draws a scene with random sizes, positions, shades, tilts and backgrounds; deterministic for a random state.

Shapes stay well inside the picture, so an encoder's centre crop does not cut them.
"""

from __future__ import annotations

import colorsys
import io
import math
import random
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from captionbeam.jobs.scenes.words import ABOVE, Group, Scene

HUES = {"red": 0.0, "orange": 0.083, "yellow": 0.15, "green": 0.36, "blue": 0.61, "purple": 0.78}
FINER = 2
MARGIN = 0.15


class Box(NamedTuple):
    """A part of the picture, in shares of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


def draw_jpeg(scene: Scene, rng: random.Random) -> tuple[bytes, tuple[int, int]]:
    """Returns the scene as a JPEG, and its width and height in pixels."""
    side = rng.randint(230, 330)
    size = (side + rng.randint(0, 40), side + rng.randint(0, 40))
    image = _background((size[0] * FINER, size[1] * FINER), rng)
    for group, box in _boxes(scene, rng):
        _draw_group(ImageDraw.Draw(image), group, box, image.size, rng)
    target = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(target, "JPEG", quality=rng.randint(80, 95))
    return target.getvalue(), size


def _background(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draws a light or dark gradient with soft patches, at low resolution because it has no edges."""
    value = rng.uniform(0.82, 0.97) if rng.random() < 0.6 else rng.uniform(0.08, 0.25)
    shades = [
        _shade(rng.random(), rng.uniform(0.0, 0.12), value + rng.uniform(-0.06, 0.03)) for _ in range(2)
    ]
    small = (size[0] // 8, size[1] // 8)
    fade = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(small)
    image = Image.composite(Image.new("RGB", small, shades[0]), Image.new("RGB", small, shades[1]), fade)
    for _ in range(rng.randint(0, 5)):
        _add_patch(image, value, rng)
    return image.resize(size, Image.Resampling.BILINEAR)


def _add_patch(image: Image.Image, value: float, rng: random.Random) -> None:
    """Adds a faint blurred patch."""
    mask = Image.new("L", image.size, 0)
    x, y = (rng.uniform(0.2, 0.8) * side for side in image.size)
    radius = rng.uniform(0.08, 0.25) * image.width
    ellipse = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(mask).ellipse(ellipse, fill=rng.randint(30, 90))
    mask = mask.filter(ImageFilter.GaussianBlur(radius / 2))
    image.paste(_shade(rng.random(), 0.15, value + rng.uniform(-0.08, 0.08)), (0, 0), mask)


def _shade(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, min(max(value, 0.0), 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def _boxes(scene: Scene, rng: random.Random) -> list[tuple[Group, Box]]:
    """Returns the box of each group. Of two groups, one is clearly above or left of the other."""
    near, far = MARGIN, 1 - MARGIN
    if scene.second is None:
        return [(scene.first, Box(near, near, far, far))]
    cut = rng.uniform(0.46, 0.54)
    boxes = []
    for group, (start, end) in ((scene.first, (near, cut)), (scene.second, (cut, far))):
        low, high = (near, far) if group.number > 1 else (0.3, 0.7)
        boxes.append(
            (group, Box(low, start, high, end) if scene.relation == ABOVE else Box(start, low, end, high))
        )
    return boxes


def _draw_group(
    draw: ImageDraw.ImageDraw, group: Group, box: Box, size: tuple[int, int], rng: random.Random
) -> None:
    """Draws the group's shapes in cells of ``box`` along its longer side, in one shade."""
    x, y = box.left * size[0], box.top * size[1]
    wide, high = (box.right - box.left) * size[0], (box.bottom - box.top) * size[1]
    along = wide > high
    cell = (wide / group.number, high) if along else (wide, high / group.number)
    saturation, value = rng.uniform(0.8, 1.0), rng.uniform(0.78, 0.98)
    fill = _shade(HUES[group.colour] + rng.uniform(-0.012, 0.012), saturation, value)
    radius = min(*cell, 0.32 * min(size)) / 2 * rng.uniform(0.74, 0.92)
    for place in range(group.number):
        corner = (x + place * cell[0], y) if along else (x, y + place * cell[1])
        each = radius * rng.uniform(0.9, 1.0)
        centre = (corner[0] + _within(cell[0], each, rng), corner[1] + _within(cell[1], each, rng))
        _draw_shape(draw, group.shape, centre, each, fill, rng)


def _within(length: float, radius: float, rng: random.Random) -> float:
    """Returns a centre within ``length`` that keeps the shape inside its cell."""
    return rng.uniform(1.06 * radius, length - 1.06 * radius)


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    fill: tuple[int, int, int],
    rng: random.Random,
) -> None:
    if shape == "circle":
        x, y = centre
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        draw.polygon(_corners(shape, centre, radius, rng.uniform(-0.2, 0.2)), fill=fill)


def _corners(
    shape: str, centre: tuple[float, float], radius: float, tilt: float
) -> list[tuple[float, float]]:
    """Returns the corners of a square, a triangle or a five-pointed star, tilted by ``tilt`` radians."""
    count, start, inner = {
        "square": (4, math.pi / 4, 1.0),
        "triangle": (3, 0.0, 1.0),
        "star": (10, 0.0, 0.42),
    }[shape]
    points = []
    for corner in range(count):
        reach = radius * (inner if corner % 2 and shape == "star" else 1.0)
        angle = start + tilt + 2 * math.pi * corner / count
        points.append((centre[0] + reach * math.sin(angle), centre[1] - reach * math.cos(angle)))
    return points
