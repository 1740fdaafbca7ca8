"""Rows under other ids: which a listed image takes over, and what the launcher says of them."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.bulk.adopt import OtherIds, adopt, find_other_ids
from captionbeam.pipelines.bulk.compare import compare_image
from captionbeam.pipelines.bulk.skip import BaseRow, decide
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.records import ImageRef
from tests.builders.data.stores import make_features


def row(place="s/0", **fields):
    return BaseRow("1", False, None, place, source="/l.csv")._replace(**fields)


def ref(image_id, source="/l.csv"):
    return ImageRef(image_id, "/1.jpg", source, "1")


@pytest.mark.parametrize(
    ("listed", "base", "expected"),
    [
        ([ref("P1")], [("1.jpg", row())], [("P1", row(renamed=True))]),
        ([ref("P2"), ref("P1")], [("1.jpg", row())], [("P1", row(renamed=True))]),  # the first one has it
        ([ref("P1")], [("1.jpg", row()), ("1.jpg", row("s/f0", failed=True))],
         [("P1", row(renamed=True)), ("P1", row("s/f0", failed=True, renamed=True))]),
        ([], [("1.jpg", row())], [("1.jpg", row())]),  # gone
        ([ref("1.jpg")], [("1.jpg", row())], [("1.jpg", row())]),
        ([ref("P1"), ref("1.jpg")], [("1.jpg", row())], [("1.jpg", row())]),  # listed under both
        ([ref("P1")], [("1.jpg", row()), ("P1", row("s/1"))],
         [("P1", row(renamed=True)), ("P1", row("s/1"))]),  # left by a run that was not published
        ([ref("P1"), ref("P2")], [("1.jpg", row()), ("P1", row("s/1"))],
         [("P2", row(renamed=True)), ("P1", row("s/1"))]),  # the new one has it
        ([ref("P1")], [("1.jpg", row()), ("P1", row("s/1", source="/other.csv"))],
         [("1.jpg", row()), ("P1", row("s/1", source="/other.csv"))]),
        ([ref("P1")], [("1.jpg", row(dead=True))], [("1.jpg", row(dead=True))]),
        ([ref("P1", "/other.csv")], [("1.jpg", row())], [("1.jpg", row())]),
        ([ref("P1", "/retired.csv")], [("1.jpg", row())], [("1.jpg", row())]),
        ([ref("P1")], [("1.jpg", row(source="/retired.csv"))],
         [("P1", row(source="/retired.csv", renamed=True))]),
    ],
)  # fmt: skip
def test_a_new_id_has_the_rows_of_its_location(listed, base, expected):
    assert adopt(listed, base, ["/retired.csv"]) == expected


def test_an_adopted_row_is_replaced_even_where_the_image_would_be_done():
    todo = ref("P1")._replace(replaces="s/0")
    assert decide([ref("P1")], [row(renamed=True)]) == todo
    assert decide([ref("P1")._replace(version=None)], [row(renamed=True)]) is not None
    both = [row(renamed=True), row("t/0")]  # ids that moved from image to image
    assert decide([ref("P1")], both) == todo._replace(replaces="s/0,t/0")
    adopted_before = [row(renamed=True), row("t/0", replaces="s/0")]  # by a run that was not published
    assert decide([ref("P1")], adopted_before) is None
    compared = compare_image([ref("P1")], [row(renamed=True)], {"/l.csv"})
    assert (compared.kind, compared.todo, compared.gone) == ("moved", todo, ())


def test_the_launcher_finds_other_ids_by_location(tmp_path):
    store = make_features(f"{tmp_path}/store", ["a.jpg", "b.jpg", "c.jpg"], (2, 2, 1))
    lines = ["/images/a.jpg,a.jpg", "/images/b.jpg,P2", "/images/c.jpg,P3", "/images/d.jpg,P4"]
    spec = SourceSpec("/images", "list", f"{tmp_path}/l.csv", id_column="id", uri_column="url")
    (tmp_path / "l.csv").write_text("\n".join(["url,id", *lines]))
    assert find_other_ids(store, [spec]) == [OtherIds("/images", "/images", 2, "P2", "b.jpg")]
    another = spec._replace(name="/another")
    assert find_other_ids(store, [another]) == [OtherIds("/another", "/images", 2, "P2", "b.jpg")]
    assert find_other_ids(store, [another, spec._replace(kind="folder")]) == []
    (tmp_path / "l.csv").write_text("\n".join(["url,id", lines[0], lines[3]]))
    assert find_other_ids(store, [spec]) == []
