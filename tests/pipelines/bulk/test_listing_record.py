"""What a listing had: counted by ending, summed in any order, written once."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from captionbeam.pipelines.bulk.find import ListSources
from captionbeam.pipelines.bulk.listing_record import (
    Listing,
    RecordListing,
    check_listed,
    ending,
    passed_over_line,
    read_listing,
    sum_listings,
    write_listing,
)
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.schemas.errors import SourceError
from tests.builders.runs import features_run
from tests.builders.sources import make_folder, make_zip, picture


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in/b.SVG", ".svg"),
        (".DS_Store", "no ending"),
        ("__MACOSX/._a.jpg", "other"),
        ("log.2026-11-30T12:00", "other"),
        ("https://host/page.html?x=a.jpg", ".html"),
    ],
)
def test_what_is_passed_over_is_counted_by_its_ending(name, expected):
    assert ending(name) == expected


@pytest.mark.parametrize(
    ("counts", "line"),
    [([], ""), ([{".txt": 1, ".svg": 1}, {".svg": 1}], "3 files passed over (2 .svg, 1 .txt)")],
)
def test_it_is_said_in_one_line(counts, line):
    assert passed_over_line(Listing("/a", 1, count) for count in counts) == line


def test_many_endings_are_a_hundred_and_the_rest():
    (summed,) = sum_listings([Listing("/a", 0, {f".{number}": 1 for number in range(150)})])
    assert len(summed.passed_over) == 101
    assert summed.passed_over["other"] == 50


def test_a_source_without_an_image_is_refused():
    listings = [Listing("/a", 1, {}), Listing("/b", 0, {".txt": 2})]
    check_listed(listings, ["/a"])
    said = "source '/b' holds no image: 2 files passed over (.txt); expected one image or more"
    with pytest.raises(SourceError, match=said.replace("(", r"\(").replace(")", r"\)")):
        check_listed(listings, ["/a", "/b"])
    with pytest.raises(SourceError, match="source '/c' holds no image; expected one image or more"):
        check_listed(listings, ["/c"])


def test_every_source_is_summed_and_written_once(tmp_path):
    """Whoever lists again finds what the first one wrote."""
    make_folder(tmp_path / "photos", {"a.jpg": b"1", "in/b.jpg": b"2", "in/notes.txt": b"", "c.svg": b""})
    make_zip(tmp_path / "x.zip", {"z.jpg": picture("z"), "captions.json": b"{}"})
    photos, archive = str(tmp_path / "photos"), str(tmp_path / "x.zip")
    run = features_run(tmp_path)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _, listings = pipeline | ListSources(parse_sources([photos, archive]), sample=0.5)
        _ = listings | RecordListing(run, [photos, archive])
    expected = [Listing(photos, 2, {".svg": 1, ".txt": 1}), Listing(archive, 1, {".json": 1})]
    assert read_listing(run) == expected
    write_listing([Listing(photos, 9, {})], run)
    assert read_listing(run) == expected
