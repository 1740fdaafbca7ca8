"""A bucket's prefix as ranges of keys: together they hold each key once, whatever the keys are."""

from __future__ import annotations

import hashlib

import apache_beam as beam
import fsspec
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.find import FindImages
from captionbeam.pipelines.sources.buckets import key_ranges
from captionbeam.pipelines.sources.buckets.key_pages import Keys, pages
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.listing import list_images, split_part, split_source
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import digest_of
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from tests.builders.data.sources import listed, picture
from tests.builders.web.key_servers import ADDRESS, FakeGcs, FakeS3, put_keys
from tests.builders.web.meddler import meddling

# Slashes in a row, markers of folders, keys that begin others, letters of every length in UTF-8.
PIECES = st.sampled_from(
    ["a", "b", "aa", "/", "//", "img_", "0", "1", "é", "日", "\U0001f600", "\ud7ff", ".jpg", " ", "~"]
)
KEYS = st.sets(st.lists(PIECES, min_size=1, max_size=6).map("".join), max_size=60)
FAKES = pytest.mark.parametrize("fake", [FakeGcs, FakeS3])


def keys_of(fs, part, page=1000):
    return [item["key"] for each in pages(fs, part, size=page) for item in each.objects]


@FAKES
@given(
    keys=KEYS,
    prefix=st.sampled_from(["", "a/", "img_", "//"]),
    wanted=st.integers(1, 12),
    page=st.integers(1, 7),
)
def test_ranges_hold_every_key_once_and_in_order(fake, keys, prefix, wanted, page):
    fs = fake(keys)
    flat = [key for key in sorted(keys) if key.startswith(prefix)]
    parts = key_ranges.cut(fs, Keys("bucket", prefix), wanted, page)
    assert len(parts) <= max(1, wanted)
    assert [key for part in parts for key in keys_of(fs, part, page)] == flat
    again = [small for part in parts for small in key_ranges.cut(fs, part, wanted, page)]
    assert [key for part in again for key in keys_of(fs, part, page)] == flat


@FAKES
def test_folders_are_the_bounds_where_there_are_enough(fake):
    fs = fake({f"photos/{day:02}/{n}.jpg" for day in range(12) for n in range(12)})
    parts = key_ranges.cut(fs, Keys("bucket", "photos/"), 12, page=12)
    assert [part.start for part in parts] == ["", *(f"photos/{day:02}/" for day in range(1, 12))]
    assert [part.end for part in parts] == [*(part.start for part in parts[1:]), ""]


@FAKES
def test_a_flat_prefix_is_cut_where_its_names_part(fake):
    """Ten thousand names that begin alike, the folder's marker in front: tens of requests, and no long part."""
    fs = fake({"photos/", *(f"photos/DSC_2026-{n:06}.jpg" for n in range(20_000))})
    parts = key_ranges.cut(fs, Keys("bucket", "photos/"))
    assert fs.requests < 80
    assert max(len(keys_of(fs, part)) for part in parts) <= 2_001  # the marker
    assert len(parts) == key_ranges.RANGES


@FAKES
def test_one_folder_that_holds_nearly_all_is_cut_in_the_second_round(fake):
    keys = {f"small{n}/a.jpg" for n in range(70)} | {f"large/{n:05}.jpg" for n in range(15_000)}
    fs = fake(keys)
    first = key_ranges.cut(fs, Keys("bucket", ""))
    second = [part for large in first for part in key_ranges.cut(fs, large)]
    assert max(len(keys_of(fs, part)) for part in first) >= 15_000
    assert max(len(keys_of(fs, part)) for part in second) <= 2_000


def test_many_keys_are_listed_by_many_tasks_that_share_no_page(bucket, monkeypatch):
    """Seen from the server: besides the looks that cut, every key is sent once, to one task of several."""
    monkeypatch.setattr("captionbeam.pipelines.sources.buckets.key_pages.PAGE", 20)
    keys = [f"photos/{n % 9}/{n:05}.jpg" for n in range(9 * 60)]
    put_keys(bucket.url, keys)
    asked = []
    with meddling(bucket.server.address, lambda method, path: asked.append(path)) as address:
        monkeypatch.setenv(ADDRESS[bucket.server.protocol], address)
        fsspec.get_filesystem_class(bucket.server.protocol).clear_instance_cache()
        (spec,) = parse_sources([f"{bucket.url}/photos"])
        looks_of_launcher = len(asked)
        parts = [small for part in split_source(spec) for small in split_part(part)]
        cutting = len(asked) - looks_of_launcher
        asked.clear()
        found = [[ref.image_id for ref in list_images(part)] for part in parts]
    assert looks_of_launcher <= 8
    assert len(parts) == 9
    past_the_end = 8 if bucket.server.protocol == "s3" else 0  # it is not told where to stop
    assert len(asked) == 9 * 3 + past_the_end
    assert cutting == 10 + 1 + len(asked)
    assert sorted(name for names in found for name in names) == sorted(
        key.removeprefix("photos/") for key in keys
    )


def test_a_pipeline_finds_what_one_flat_listing_finds(gcs, monkeypatch):
    monkeypatch.setattr("captionbeam.pipelines.sources.buckets.key_pages.PAGE", 20)
    put_keys(gcs.url, [f"photos/{n % 3}/{n:04}.jpg" for n in range(600)] + ["photos/notes.md"])
    (spec,) = parse_sources([f"{gcs.url}/photos"])
    expected = [ref for ref in list_images(spec) if isinstance(ref, ImageRef)]
    assert len(expected) == 600
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | FindImages([spec]), equal_to(expected))


def test_a_bucket_is_listed_with_versions_and_digests(bucket):
    contents = {"a.jpg": picture("a"), "in/b.jpg": picture("b"), "in/deep/a-copy.jpg": picture("a")}
    for name, data in contents.items():
        files.write_atomic(files.join(bucket.url, "photos", name), data)
    files.write_atomic(files.join(bucket.url, "photos/notes.md"), b"#")
    refs, ignored = listed(f"{bucket.url}/photos")
    found = {ref.image_id: ref for ref in refs}
    assert found.keys() == contents.keys()
    assert ignored == [f"{bucket.url}/photos/notes.md"]
    assert {name: ref.length for name, ref in found.items()} == {n: len(data) for n, data in contents.items()}
    assert found["a.jpg"].digest == found["in/deep/a-copy.jpg"].digest != found["in/b.jpg"].digest
    assert all(ref.digest and ref.version for ref in refs)
    assert fetch(refs) == [contents[ref.image_id] for ref in refs]


def test_a_changed_image_has_another_version(bucket):
    url = files.join(bucket.url, "photos/a.jpg")
    files.write_atomic(url, picture("a"))
    (before,), _ = listed(f"{bucket.url}/photos")
    files.write_atomic(url, picture("b"))
    (after,), _ = listed(f"{bucket.url}/photos")
    assert before.version != after.version


def test_only_what_is_of_the_content_is_a_digest():
    md5 = hashlib.md5(b"x", usedforsecurity=False).hexdigest()
    assert digest_of({"md5Hash": "ndTkYSaMgDT1yFZOFVxnpg==", "etag": "CJ"}) == "ndTkYSaMgDT1yFZOFVxnpg=="
    assert digest_of({"ETag": f'"{md5}"'}) == md5
    assert digest_of({"ETag": f'"{md5}-12"'}) == ""
    assert digest_of({"size": 3, "mtime": 1.0}) == ""


ODD = [
    "a.jpg",
    "x/",
    "x/b.jpg",
    "x/y/c.jpg",
    "x//d.jpg",
    "/e.jpg",
    "é/f.jpg",
    "日本/g.jpg",
    "x.jpg",
    "x.jpg/h.jpg",
]


def test_odd_keys_have_an_id_each_on_real_servers(bucket):
    """The id is what stands after the prefix and one slash; what another folder begins with is not in this one."""
    put_keys(bucket.url, [f"photos/{key}" for key in ODD] + ["photos", "photos.jpg", "photos2/i.jpg"])
    refs, ignored = listed(f"{bucket.url}/photos")
    assert sorted(ref.image_id for ref in refs) == sorted(key for key in ODD if key != "x/")
    assert {ref.uri for ref in refs} == {f"{bucket.url}/photos/{ref.image_id}" for ref in refs}
    assert ignored == []
