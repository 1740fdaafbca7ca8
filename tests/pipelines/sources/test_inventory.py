"""A bucket listed by its inventory report: the very references that listing it gives, on real servers."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from captionbeam.pipelines.bulk.find import FindImages
from captionbeam.pipelines.sources.buckets.inventory import check_counts
from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import Counted, SourceOptions
from captionbeam.schemas.errors import RequestError, SourceError
from captionbeam.schemas.storage import files
from tests.builders.data.inventories import gcs_report, objects, s3_report
from tests.builders.data.sources import listed
from tests.builders.web.key_servers import put_keys

pytestmark = pytest.mark.engines
ODD = ["a.jpg", "x/b.jpg", "x//c.jpg", "x/", "é +&,\"%41'.jpg", "日本/d.jpg", "notes.md"]
KINDS = [("gs", "csv"), ("gs", "parquet"), ("s3", "CSV"), ("s3", "Parquet"), ("s3", "ORC")]


@pytest.fixture(params=KINDS, ids=lambda value: "-".join(value))
def reported(request):
    """A bucket with odd keys below ``photos/`` and others beside it, and what writes a report of it."""
    protocol, kind = request.param
    url = request.getfixturevalue({"gs": "gcs", "s3": "s3"}[protocol]).url
    put_keys(url, [f"photos/{key}" for key in ODD] + ["photos2/e.jpg", "f.jpg"])
    make = gcs_report if protocol == "gs" else s3_report
    return url, lambda found, **how: make(url, found, kind, **how)


def by_report(url, manifest):
    found = [
        item
        for spec in parse_sources([url], SourceOptions(inventories=(manifest,)))
        for item in list_images(spec)
    ]
    check_counts(item for item in found if isinstance(item, Counted))
    return sorted(item for item in found if not isinstance(item, Counted))


def by_listing(url):
    refs, ignored = listed(url)
    return sorted([*refs, *((name,) for name in ignored)])


@pytest.mark.parametrize("folder", ["/photos", ""])
def test_it_gives_what_listing_gives(reported, folder):
    url, make = reported
    expected = by_listing(url + folder)
    assert len(expected) == (6 if folder else 8)
    manifest = make(objects(url))
    assert by_report(url + folder, manifest) == expected


def test_files_that_are_not_what_the_manifest_says_are_refused(s3):
    put_keys(s3.url, ["photos/a.jpg"])
    wrong = s3_report(s3.url, objects(s3.url), wrong="0" * 32)
    with pytest.raises(SourceError, match="has the MD5 [0-9a-f]{32}; expected 0{32}"):
        by_report(f"{s3.url}/photos", wrong)
    files.write_atomic(wrong, files.read_bytes(wrong) + b" ")
    with pytest.raises(SourceError, match=r"manifest.json' has the MD5"):
        by_report(f"{s3.url}/photos", wrong)


def test_what_is_no_inventory_or_of_another_bucket_is_said(s3, tmp_path):
    put_keys(s3.url, ["photos/a.jpg"])
    (tmp_path / "a.jpg").write_bytes(b"x")
    manifest = s3_report(s3.url, objects(s3.url))
    with pytest.raises(
        RequestError, match=f"is of {s3.url}, as none of the sources is; expected a SOURCE there"
    ):
        parse_sources([str(tmp_path)], SourceOptions(inventories=(manifest,)))
    with pytest.raises(RequestError, match="has the inventories"):
        parse_sources([f"{s3.url}/photos"], SourceOptions(inventories=(manifest, manifest)))
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(SourceError, match=r"is no manifest of one; expected the manifest.json of"):
        by_report(f"{s3.url}/photos", str(tmp_path / "m.json"))
    with pytest.raises(SourceError, match=r"cannot be read \(not_found\)"):
        by_report(f"{s3.url}/photos", f"{s3.url}/nothing")


def changed(url, **fields):
    """The manifest at ``url``, written anew with other ``fields``."""
    files.write_atomic(url, json.dumps({**files.read_json(url), **fields}).encode())
    return url


@pytest.fixture
def google(gcs):
    """A bucket of three images, and the manifest of its report in two files."""
    put_keys(gcs.url, ["photos/a.jpg", "photos/b.jpg", "photos/c.jpg"])
    return gcs.url, gcs_report(gcs.url, objects(gcs.url))


def first_file(manifest):
    return f"{manifest.rpartition('/')[0]}/{files.read_json(manifest)['report_shards_file_names'][0]}"


def test_a_report_with_fewer_rows_than_it_says_lists_nothing(google):
    """Else the images of the lost rows would be taken for gone. Nothing leaves the listing before all is counted."""
    url, manifest = google
    lines = files.read_bytes(first_file(manifest)).splitlines(keepends=True)
    files.write_atomic(first_file(manifest), b"".join(lines[:-1]))
    with pytest.raises(SourceError, match="has 2 rows; expected 3, as it says"):
        by_report(f"{url}/photos", manifest)
    seen = []
    specs = parse_sources([f"{url}/photos"], SourceOptions(inventories=(manifest,)))
    with pytest.raises(Exception, match="has 2 rows; expected 3"), beam.Pipeline(FnApiRunner()) as pipeline:
        _ = pipeline | FindImages(specs) | beam.Map(seen.append)
    assert not seen


def test_a_report_without_one_of_its_files_is_refused(google):
    url, manifest = google
    names = files.read_json(manifest)["report_shards_file_names"]
    with pytest.raises(SourceError, match="names 1 files of 2; expected all of them"):
        by_report(url, changed(manifest, report_shards_file_names=names[:1]))


def test_an_inventory_is_of_folders_only(google):
    url, manifest = google
    with pytest.raises(RequestError, match="is no folder, but has the inventory"):
        by_report(f"{url}/photos/*.jpg", manifest)


def test_a_damaged_manifest_of_google_is_one_sentence(google):
    url, manifest = google
    with pytest.raises(
        SourceError, match="has a damaged manifest .TypeError: 'NoneType' object is not iterable"
    ):
        by_report(url, changed(manifest, report_shards_file_names=None))


def test_of_a_folder_of_reports_the_newest_is_taken(reported):
    url, make = reported
    times = (
        ("2026-11-09T00:00", "2026-11-24T00:00")
        if url.startswith("gs")
        else ("2026-11-09T00-00Z", "2026-11-24T00-00Z")
    )
    make(objects(url)[:2], time=times[0])
    newest = make(objects(url), time=times[1])
    folder = newest.rpartition("/")[0] if url.startswith("gs") else newest.rsplit("/", 2)[0]
    assert by_report(f"{url}/photos", folder) == by_listing(f"{url}/photos")


def test_a_report_without_the_version_is_refused(s3):
    put_keys(s3.url, ["photos/a.jpg"])
    manifest = s3_report(s3.url, [{**item, "ETag": ""} for item in objects(s3.url)])
    with pytest.raises(SourceError, match="expected Key and ETag among them"):
        by_report(f"{s3.url}/photos", manifest)


def test_a_row_of_another_length_is_refused(google):
    url, manifest = google
    data = files.read_bytes(first_file(manifest))
    files.write_atomic(first_file(manifest), data.rstrip()[:-40] + b"\n")
    with pytest.raises(SourceError, match=r"has [1-6] fields in line 3; expected 7"):
        by_report(url, manifest)


def test_a_report_that_has_nothing_of_the_source_is_refused(google):
    url, manifest = google
    with pytest.raises(SourceError, match=f"has nothing below {url}/photo; expected images there"):
        by_report(f"{url}/photo", manifest)


def test_rows_that_cannot_be_are_refused(gcs):
    put_keys(gcs.url, ["photos/a.jpg"])
    (found,) = objects(gcs.url)
    with pytest.raises(SourceError, match="has the size 'five'; expected a number of bytes"):
        by_report(gcs.url, gcs_report(gcs.url, [{**found, "size": "five"}]))
    manifest = gcs_report(gcs.url, [found])
    data = files.read_bytes(first_file(manifest))
    bucket = gcs.url.removeprefix("gs://")
    files.write_atomic(first_file(manifest), data.replace(bucket.encode(), b"another"))
    with pytest.raises(SourceError, match=f"has a row of the bucket 'another'; expected '{bucket}'"):
        by_report(gcs.url, manifest)


def test_only_live_objects_count(s3, gcs):
    put_keys(s3.url, ["photos/a.jpg", "photos/b.jpg"])
    now = objects(s3.url)
    older = [{**now[0], "latest": False, "ETag": "old"}, {**now[0], "key": "photos/gone.jpg", "marker": True}]
    assert by_report(f"{s3.url}/photos", s3_report(s3.url, now + older)) == by_listing(f"{s3.url}/photos")
    put_keys(gcs.url, ["photos/a.jpg"])
    deleted = [
        {**item, "key": "photos/b.jpg", "timeDeleted": "2026-11-01T00:00:00Z"} for item in objects(gcs.url)
    ]
    manifest = gcs_report(gcs.url, objects(gcs.url) + deleted)
    assert by_report(f"{gcs.url}/photos", manifest) == by_listing(f"{gcs.url}/photos")
