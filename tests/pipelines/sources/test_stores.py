"""A store is no source of pictures, and does not lie where a source is listed."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.bulk.run import start_run
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.stores import refuse_output
from captionbeam.schemas.errors import RequestError, SourceError
from captionbeam.schemas.formats import arrow
from tests.builders.data.sources import make_folder, picture
from tests.builders.data.stores import make_captions, make_features


@pytest.mark.parametrize("inside", ["", "/data/*.parquet"])
def test_a_store_as_a_source_is_refused(tmp_path, inside):
    url = make_features(f"{tmp_path}/store", ["a.jpg"]).url
    with pytest.raises(SourceError) as refused:
        parse_sources([f"{url}{inside}"])
    said = f"is a store of features, not of pictures; expected --features {url}, or the pictures"
    assert str(refused.value) == f"source '{url}{inside}' {said}"


def test_a_folder_with_a_store_in_it_and_no_picture_is_refused(tmp_path):
    make_captions(f"{tmp_path}/all/store", {"a.jpg": "a dog"})
    with pytest.raises(SourceError, match="is a store of captions, not of pictures; expected the pictures"):
        parse_sources([f"{tmp_path}/all"])


@pytest.mark.parametrize(
    ("source", "output", "refused"),
    [
        ("photos", "photos", True),
        ("photos", "link/features", True),
        ("photos", "photos-features", False),
        ("photos/*", "photos/features", True),
        ("photos/**/*.parquet", "photos/features", True),
        ("memory://bucket/photos", "memory://bucket/photos/features", True),
    ],
)
def test_a_store_does_not_lie_in_a_source(tmp_path, source, output, refused):
    make_folder(tmp_path / "photos", {"a.jpg": picture("a")})
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    source, output = (url if "://" in url else f"{tmp_path}/{url}" for url in (source, output))
    if not refused:
        refuse_output(output, [source])
        return
    with pytest.raises(RequestError, match=f"--output {output} lies in the source "):
        refuse_output(output, [source])


def test_a_store_does_not_lie_in_a_linked_pattern(tmp_path):
    make_folder(tmp_path / "photos", {"a.jpg": picture("a")})
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(RequestError, match=r"lies in the source .*/link/\*\*, whose listing"):
        refuse_output(f"{tmp_path}/photos/sub", [f"{tmp_path}/link/**"])


def test_a_new_store_takes_no_folder_that_holds_something_else(tmp_path):
    make_folder(tmp_path / "photos", {"a.jpg": picture("a")})
    field = arrow.grid_field("grid", (2, 2, 1))
    with pytest.raises(
        RequestError, match=r"holds other files \(a.jpg\); expected a store, or a new or empty"
    ):
        start_run(f"{tmp_path}/photos", "features", {"a": 1}, "f" * 32, field)
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    for _ in range(2):  # the second finds what a killed one left
        start_run(f"{tmp_path}/volume", "features", {"a": 1}, "f" * 32, field)
