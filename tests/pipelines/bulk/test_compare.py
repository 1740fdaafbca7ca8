"""What a refresh makes of one image id, and of a whole listing on a runner."""

from __future__ import annotations

import apache_beam as beam
import pytest

from captionbeam.pipelines.bulk.compare import (
    CompareStore,
    NameSources,
    compare_image,
    read_counts,
    read_gone,
    sources_of,
    value_counts,
)
from captionbeam.pipelines.bulk.find import FindImages
from captionbeam.pipelines.bulk.skip import BaseRow
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import RequestError, SourceError
from captionbeam.schemas.formats.kept import packed
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import features_run
from tests.builders.data.stores import make_features

REF = ImageRef("a.jpg", "/i/a.jpg", "/i", "2")


def row(version="2", place="s/0", source="/i", code=None, dead=False):
    return BaseRow(version, code is not None, code, place, "", source, dead)


@pytest.mark.parametrize(
    ("refs", "base", "kind", "gone"),
    [
        ([REF], [], "new", ()),
        ([REF], [row("1")], "changed", ()),
        ([REF], [row()], "unchanged", ()),
        ([REF], [row(code="decode")], "unchanged", ()),
        ([REF], [row(code="timeout")], "again", ()),
        ([REF], [row(dead=True)], "new", ()),
        ([REF], [row(source="/other")], "unchanged", ()),
        ([], [row()], "gone", ("s/0",)),
        ([], [row(code="decode", place="s/f0")], "gone", ("s/f0",)),
        ([], [row("1"), row(code="timeout", place="t/f0")], "gone", ("s/0", "t/f0")),
        ([], [row(dead=True)], "", ()),
        ([], [row(source="/other")], "", ()),
    ],
)
def test_an_image_is_new_changed_gone_or_none_of_it(refs, base, kind, gone):
    verdict = compare_image(refs, base, {"/i"})
    assert (verdict.kind, tuple(verdict.gone)) == (kind, gone)
    assert (verdict.todo is not None) == (kind in ("new", "changed", "again"))


def test_nothing_is_gone_from_a_listing_of_a_part():
    assert compare_image([], [row()], {"/i"}, complete=False).gone == []


def test_an_image_that_came_back_replaces_its_dead_rows():
    todo = compare_image([REF], [row(dead=True)], {"/i"}).todo
    assert todo is not None
    assert todo.replaces == "s/0"


def test_another_sources_row_is_never_replaced():
    with pytest.raises(RequestError, match="image 'a.jpg' of /i would replace another one of /other"):
        compare_image([REF], [row("1", source="/other")], {"/i"})
    assert compare_image([REF], [row("1", source="/other")], {"/i", "/other"}).kind == "changed"


def test_an_image_that_another_of_the_sources_had_is_done_again_so_that_its_row_says_where_it_is():
    moved = compare_image([REF], [row(source="/old")], {"/i", "/old"})
    assert (moved.kind, moved.todo) == ("moved", REF._replace(replaces="s/0"))


def compare(run, images, names):
    def build(pipeline):
        listed = pipeline | "Find" >> images
        return listed | CompareStore(run, NameSources(names))

    run_pipeline([], build)


def test_a_listing_is_compared_once_whoever_computes_it_again(tmp_path):
    store = make_features(
        f"{tmp_path}/store", ["a", "b", "c"], (2, 2, 1), spec={"model": "mean"}, failing=["d"]
    )
    assert sources_of(store) == {"/images"}
    run = features_run(tmp_path, operation="refresh")
    refs = [
        ImageRef(name, f"/images/{name}", "/images", version) for name, version in (("a", "v1"), ("b", "v2"))
    ]
    compare(run, beam.Create(refs), ["/images"])
    counts = {
        "new": 0,
        "changed": 1,
        "again": 0,
        "moved": 0,
        "columns": 0,
        "unchanged": 1,
        "gone": 2,
        "known": 4,
    }
    assert read_counts(run) == counts
    assert sorted(read_gone(run).values()) == ["c", "d"]
    compare(run, beam.Create(refs[:1]), ["/images"])
    assert read_counts(run) == counts
    assert sorted(read_gone(run).values()) == ["c", "d"]


def test_a_listing_that_breaks_off_deletes_nothing(tmp_path):
    """One source lists, the other cannot be."""
    make_features(f"{tmp_path}/store", ["a"], (2, 2, 1), spec={"model": "mean"})
    (tmp_path / "photos").mkdir()
    run = features_run(tmp_path, operation="refresh")
    specs = [
        SourceSpec(name, "folder", str(tmp_path / name), str(tmp_path / name))
        for name in ("photos", "no-such")
    ]
    with pytest.raises(SourceError, match="no-such"):
        compare(run, FindImages(specs), ["/images"])
    assert layout.snapshot_ids(run.url) == [1]


def test_features_name_every_source_they_ever_had(tmp_path):
    store = make_features(f"{tmp_path}/store", ["a"], (2, 2, 1))

    def build(pipeline):
        names = pipeline | NameSources(["/more", "/images"], store)
        return (
            names
            | beam.combiners.ToList()
            | beam.Map(lambda names: (tmp_path / "names").write_text(repr(sorted(names))))
        )

    run_pipeline([], build)
    assert (tmp_path / "names").read_text() == "['/images', '/more']"


@pytest.mark.parametrize(
    ("version", "code", "columns", "counts"),
    [
        ("2", None, {"price": "8", "title": "Mug"}, {"values": 1, "answers_copied": 2}),
        ("2", None, {"price": "8"}, {"values": 1, "answers_copied": 1}),
        ("1", None, {"price": "8", "title": "Mug"}, {"values": 1, "answers_copied": 0}),
        ("2", "invalid_json", {"price": "8", "title": "Mug"}, {"values": 1, "answers_copied": 0}),
        ("1", None, {"price": "7", "title": "Mug", "other": "b"}, {}),
    ],
)
def test_answers_to_prompts_whose_values_are_the_same_stay(version, code, columns, counts):
    """Of another version, only the content would tell; a failure has no answers."""
    used = packed({"price": "7", "title": "Mug"})
    before = row(version, code=code)._replace(used=used)
    prompts = {"cost": ["price"], "alt": ["title"], "colour": []}
    assert value_counts(REF._replace(columns=packed(columns)), [before], prompts) == counts
