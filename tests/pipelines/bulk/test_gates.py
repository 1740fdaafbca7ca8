"""What holds a snapshot back that has no parent to be compared with; how many images may go."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.bulk.gates import Gates, check_captions, check_gates, too_many_gone
from captionbeam.pipelines.bulk.run import Run
from captionbeam.schemas.errors import HeldBack
from tests.builders.stores import make_captions

VARIED = [f"a dog and {number} cats" for number in range(100)]


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ([""] * 20, "all 20 captions that were looked at are empty; expected words"),
        (
            ["a dog"] * 100,
            "all 100 captions that were looked at are 'a dog'; expected captions that differ",
        ),
    ],
)
@pytest.mark.parametrize("before", [[], VARIED[:19]])
def test_captions_without_enough_others_beside_them_are_not_all_empty_or_equal(before, captions, said):
    with pytest.raises(HeldBack) as held:
        check_captions(before, captions)
    again = "not published; the rows are kept, and the same command with --publish-anyway publishes them"
    assert str(held.value) == f"{said}: {again}"


@pytest.mark.parametrize(
    "captions", [[""] * 19, [""] * 20 + ["a"], ["a dog"] * 99, ["a dog"] * 99 + ["a cat"], VARIED, []]
)
def test_a_few_captions_or_different_ones_pass(captions):
    check_captions([], captions)


@pytest.mark.parametrize("anyway", [False, True])
@pytest.mark.parametrize(
    ("decode", "held"),
    [({}, True), ({"prefix": "a photo of"}, False), ({"max_length": 5}, False), ({"max_length": 6}, True)],
)
def test_a_first_snapshot_of_equal_captions(tmp_path, decode, held, anyway):
    store = make_captions(f"{tmp_path}/store", {f"{n:03d}.jpg": "a dog" for n in range(100)})
    added, spec = store.manifest.to_pylist(), {"decode": decode}
    run = Run(store.url, "r", "captions", "parquet", "f", spec, "captions", (), None)
    gates = Gates(compared=True, anyway=anyway)
    if not held or anyway:
        check_gates(gates, run, None, store.snapshot, added, [], 0)
        return
    with pytest.raises(HeldBack, match="all 100 captions that were looked at are 'a dog'"):
        check_gates(gates, run, None, store.snapshot, added, [], 0)


@pytest.mark.parametrize(
    ("limit", "before", "after", "gone", "known", "said"),
    [
        (None, 10, 0, 10, 10, None),
        (0.1, 20, 18, 2, 10, "2 of 10 images are gone from the listing"),
        (0.1, 10, 8, 0, 0, "the snapshot would have 8 rows, its parent has 10"),
        (2, 10, 8, 2, 2, None),
    ],
)
def test_how_many_may_go(limit, before, after, gone, known, said):
    expected = said and f"{said}; expected at most {limit:g} to go (--max-deletes)"
    assert too_many_gone(limit, before, after, gone, known) == expected
