"""Batches of images of one shape."""

from __future__ import annotations

from captionbeam.pipelines.workers.batches import WAITING_BATCHES, WAITING_BYTES, Prepared, in_batches
from captionbeam.schemas.records import ImageRef


class Plain:
    """A processor of batches of four images, of any shape."""

    batch_size = 4


class OfOneShape(Plain):
    """The same, where an image's shape is its first letter."""

    def shape_of(self, value):
        return value[0]

    def bytes_of(self, value):
        return WAITING_BYTES // 3 if value[0] == "z" else 1


def batches(processor, values):
    prepared = [Prepared(ImageRef(value, value, "1", "s"), "", value) for value in values]
    return [" ".join(one.value for one in batch) for batch in in_batches(prepared, processor)]


def test_batches_are_of_neighbours():
    assert batches(Plain(), ["a1", "b1", "a2", "b2", "a3"]) == ["a1 b1 a2 b2", "a3"]
    assert batches(Plain(), []) == []


def test_images_of_one_shape_wait_for_each_other():
    mixed = ["a1", "b1", "a2", "c1", "b2", "a3", "b3", "a4", "b4", "a5"]
    assert batches(OfOneShape(), mixed) == ["a1 a2 a3 a4", "b1 b2 b3 b4", "c1", "a5"]


def test_the_most_frequent_shape_is_taken_where_too_many_wait():
    rare = [f"{letter}1" for letter in map(chr, range(65, 65 + WAITING_BATCHES * Plain.batch_size - 1))]
    found = batches(OfOneShape(), [*rare, "B2", "C2", "B3", "~1"])
    assert found[:2] == ["B1 B2", "C1 C2"]
    assert sorted(" ".join(found).split()) == sorted([*rare, "B2", "B3", "C2", "~1"])


def test_large_images_do_not_wait_for_many():
    assert batches(OfOneShape(), ["a1", "z1", "z2", "b1", "b2"]) == ["a1", "z1 z2", "b1 b2"]
    assert batches(OfOneShape(), ["a1", "z1", "z2", "z3", "b1", "b2"]) == ["z1 z2 z3", "a1", "b1 b2"]
