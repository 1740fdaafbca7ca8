"""Images with one id: an error that names both places, or the first of them, counted aloud."""

from __future__ import annotations

import random

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from captionbeam.pipelines.bulk.duplicates import (
    Duplicates,
    PassOverDuplicates,
    duplicates_line,
    read_duplicates,
    refuse_duplicates,
    take_first,
)
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.records import ImageRef
from tests.builders.data.runs import features_run
from tests.builders.data.sources import listed, make_folder


def in_list(row, uri="https://a/x.jpg", source="/l.csv", column=""):
    return ImageRef("x.jpg", uri, source, None, offset=row, column=column)


@pytest.mark.parametrize(
    ("refs", "sentence"),
    [
        (
            [in_list(10), in_list(9), in_list(2)],  # one URI
            "https://a/x.jpg (row 2 of /l.csv) and https://a/x.jpg (row 9 of /l.csv); expected one, an id column "
            "(--id-column), or --on-duplicate first",
        ),
        (
            [in_list(1), in_list(2, "https://b/x.jpg")],  # one path on two hosts
            "https://a/x.jpg (row 1 of /l.csv) and https://b/x.jpg (row 2 of /l.csv); expected one, an id column "
            "(--id-column), or --on-duplicate first",
        ),
        (
            [in_list(1, source="/lists", column="b.csv"), in_list(7, source="/lists", column="a.csv")],
            "https://a/x.jpg (row 7 of a.csv in /lists) and https://a/x.jpg (row 1 of b.csv in /lists); expected "
            "one, an id column (--id-column), or --on-duplicate first",
        ),
        (
            [ImageRef("x.jpg", "/z.zip", "/z.zip", "1", "zip", at) for at in (90, 0)],
            "zip://x.jpg::/z.zip at byte 0 (in /z.zip) and zip://x.jpg::/z.zip at byte 90 (in /z.zip); expected one, "
            "or --on-duplicate first",
        ),
        (
            [
                ImageRef("x.jpg", "/t.parquet", "/t.parquet", "1", "parquet", 0, row, column="i")
                for row in (3, 1)
            ],
            "/t.parquet#row_group=0&row=1&column=i (in /t.parquet) and /t.parquet#row_group=0&row=3&column=i "
            "(in /t.parquet); expected one, or --on-duplicate first",
        ),
    ],
)
def test_two_images_with_one_id_are_named_with_their_places(refs, sentence):
    with pytest.raises(RequestError) as caught:
        refuse_duplicates(refs)
    assert str(caught.value) == f"two images have the id 'x.jpg': {sentence}"


def test_the_first_is_that_of_the_first_source_then_of_the_first_row():
    refs = [
        in_list(3, "https://one", "/b.csv"),
        in_list(2, "https://two", "/a.csv"),
        in_list(1, "https://three", "/a.csv"),
        ImageRef("y.jpg", "/y.jpg", "/", None),
    ]
    for seed in range(5):
        random.Random(seed).shuffle(refs)
        taken, others = take_first(refs, ["/b.csv", "/a.csv", "/"])
        assert sorted(ref.uri for ref in taken) == ["/y.jpg", "https://one"]
        assert others == Duplicates(
            2, "https://three (row 1 of /a.csv) has the id of https://one (row 3 of /b.csv)"
        )
    taken, _ = take_first(refs, ["/a.csv", "/b.csv"])
    assert sorted(ref.uri for ref in taken) == ["/y.jpg", "https://three"]


def test_what_is_passed_over_is_counted_and_recorded_once(tmp_path):
    run = features_run(tmp_path)
    refs = [in_list(row) for row in (1, 2, 3)] + [ImageRef("y.jpg", "/y.jpg", "/", None)]

    def passed_over(refs, expected):
        pipeline = beam.Pipeline(runner=FnApiRunner())
        images = pipeline | beam.Create(refs).with_output_types(ImageRef)
        assert_that((images | PassOverDuplicates(run, ["/l.csv", "/"]))[0], equal_to(expected))
        result = pipeline.run()
        result.wait_until_finish()
        counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
        return counters.get("duplicates_passed_over", 0)

    assert passed_over(refs, [refs[0], refs[3]]) == 2
    said = "https://a/x.jpg (row 2 of /l.csv) has the id of https://a/x.jpg (row 1 of /l.csv)"
    assert read_duplicates(run) == Duplicates(2, said)
    assert duplicates_line(read_duplicates(run)) == f"2 images passed over, as others have their ids ({said})"
    assert passed_over(refs[2:], refs[2:]) == 0  # a runner that computes the listing again
    assert read_duplicates(run) == Duplicates(2, said)


def test_images_know_their_rows(tmp_path):
    csv = b'url,note\nhttps://h/1.jpg,"two\nlines"\n\nhttps://h/2.jpg,\n'
    make_folder(tmp_path, {"lists/b/x.csv": csv, "lists/a.csv": csv, "x.txt": b"\n1.jpg\n\n2.jpg\n"})
    assert [(ref.column, ref.offset) for ref in listed(tmp_path / "x.txt")[0]] == [("", 1), ("", 2)]
    refs, _ = listed(f"{tmp_path}/lists/*.csv")
    assert [(ref.column, ref.offset) for ref in refs] == [("a.csv", 1), ("a.csv", 2)]
    refs, _ = listed(f"{tmp_path}/lists/*/x.csv")
    assert [(ref.column, ref.offset) for ref in refs] == [("b/x.csv", 1), ("b/x.csv", 2)]
