"""Counts in sentences."""

from captionbeam.schemas.counts import counted


def test_one_is_singular_and_thousands_have_commas():
    assert [counted(n, "row") for n in (0, 1, 2_500)] == ["0 rows", "1 row", "2,500 rows"]
    assert counted(2, "process") == "2 processes"
