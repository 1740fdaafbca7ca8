"""What holds a snapshot back, and what a listing had."""

from __future__ import annotations

import shutil
from functools import partial

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from captionbeam.pipelines.bulk.find import ListSources
from captionbeam.pipelines.bulk.gates import Gates, check_captions, check_gates, too_many_gone
from captionbeam.pipelines.bulk.listing_record import (
    Listing,
    RecordListing,
    check_listed,
    ending,
    read_listing,
    sum_listings,
    write_listing,
)
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.schemas.errors import HeldBack, SourceError
from captionbeam.schemas.formats import arrow
from tests.builders.data.runs import features_run
from tests.builders.data.sources import make_folder, make_zip, picture
from tests.builders.data.stores import make_answers, make_captions, make_store

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


PROMPTS = {"a": {"text": "Describe."}, "b": {"text": "Is it red?", "schema": {"type": "boolean"}}}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (VARIED, None),
        (
            ["x"] * 100,
            "all 100 answers to the prompt of 'a' that were looked at are 'x'; expected answers to ",
        ),
        ([" "] * 100, "all 100 answers to the prompt of 'a' that were looked at are empty; expected words"),
    ],
)
def test_every_prompt_is_checked_but_json_may_be_equal(tmp_path, texts, said):
    rows = {f"{n:03d}.jpg": {"a": [text], "b": ["true"]} for n, text in enumerate(texts)}
    store = make_answers(f"{tmp_path}/store", rows, PROMPTS)
    check = partial(check_gates, GATES, run_of(store), None, store.snapshot, store.shards, [], 0)
    if said is None:
        check()
        return
    with pytest.raises(HeldBack) as held:
        check()
    assert str(held.value).startswith(said)


@pytest.mark.parametrize(("prompt", "held"), [("Describe.", True), ("One word!", False)])
def test_answers_are_compared_with_those_to_the_same_prompt(tmp_path, prompt, held):
    rows = {f"{n:03d}.jpg": {"a": [text], "b": ["true"]} for n, text in enumerate(VARIED)}
    words = {name: {"a": [f"w{n}"], "b": ["true"]} for n, name in enumerate(rows)}
    parent = make_answers(f"{tmp_path}/parent", rows, PROMPTS)
    store = make_answers(f"{tmp_path}/store", words, {**PROMPTS, "a": {"text": prompt}})
    shutil.copytree(f"{parent.url}/data", f"{store.url}/data", dirs_exist_ok=True)
    shutil.copytree(f"{parent.url}/manifests", f"{store.url}/manifests", dirs_exist_ok=True)
    check = partial(check_gates, GATES, run_of(store), parent.snapshot, store.snapshot, store.shards, [], 0)
    if not held:
        check()
        return
    with pytest.raises(
        HeldBack, match="answers to the prompt of 'a' collapsed against the parent's: words a"
    ):
        check()


def scored(url, score, scorer):
    """A store of 30 captions, all with one score but for some that could not be scored."""
    caption = {"text": "a dog", "logprob": -1.0, "tokens": ["a", "dog"]}
    rows = {f"{n:03d}.jpg": [{**caption, "score": None if n < 5 else score}] for n in range(30)}
    field = arrow.with_scores(pa.schema([arrow.captions_field()])).field(0)
    return make_store(url, "captions", field, rows, {"bundle": "b", "scorer": {"model": scorer}})


@pytest.mark.parametrize(
    ("scorer", "score", "held"), [("clip", 0.55, True), ("clip", 0.6, False), ("siglip", 0.1, False)]
)
def test_scores_may_not_fall_by_more_than_a_fifth(tmp_path, scorer, score, held):
    parent = scored(f"{tmp_path}/parent", 0.7, "clip")
    store = scored(f"{tmp_path}/store", score, scorer)
    for folder in ("data", "manifests"):
        shutil.copytree(f"{parent.url}/{folder}", f"{store.url}/{folder}", dirs_exist_ok=True)
    check = partial(check_gates, GATES, run_of(store), parent.snapshot, store.snapshot, store.shards, [], 0)
    if not held:
        check()
        return
    said = r"the median score of captions fell from 0.7 to 0.55 \(of 25 and 25\); expected at most 20% less: not publ"
    with pytest.raises(HeldBack, match=said):
        check()


GATES = Gates(compared=True)


def run_of(store):
    return Run(store.url, "r", "captions", "parquet", store.fingerprint, store.spec, store.column, (), None)


@pytest.mark.parametrize(
    ("limit", "before", "after", "gone", "known", "said"),
    [
        (0.1, 20, 18, 2, 10, "2 of 10 images are gone from the listing"),
        (0.1, 10, 8, 0, 0, "the snapshot would have 8 rows, its parent has 10"),
    ],
)
def test_how_many_may_go(limit, before, after, gone, known, said):
    expected = said and f"{said}; expected at most {limit:g} to go (--max-deletes)"
    assert too_many_gone(limit, before, after, gone, known) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".DS_Store", "no ending"),
        ("__MACOSX/._a.jpg", "other"),
        ("https://host/page.HTML?x=a.jpg", ".html"),
    ],
)
def test_what_is_passed_over_is_counted_by_its_ending(name, expected):
    assert ending(name) == expected


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
