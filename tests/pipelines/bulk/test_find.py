"""FindImages and LimitImages on a real runner; what a sample is."""

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.find import FindImages, LimitImages, draw, is_sampled
from captionbeam.pipelines.sources.listing import list_images, split_source
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.schemas.errors import RequestError
from tests.builders.data.sources import listed, make_folder, make_tar, make_zip, picture

IDS = st.text(st.characters(exclude_categories=["Cs"]))
SEEDS = st.integers(-(2**40), 2**40)


def sources(tmp_path) -> list:
    make_folder(tmp_path / "photos", {"a.jpg": b"1", "in/b.jpg": b"2", "in/notes.txt": b""})
    make_zip(tmp_path / "x.zip", {f"z{i}.jpg": picture(str(i)) for i in range(30)} | {"captions.json": b"{}"})
    make_tar(tmp_path / "x.tar", {f"t{i}.jpg": picture(str(i)) for i in range(30)})
    return [str(tmp_path / name) for name in ("photos", "x.zip", "x.tar")]


def test_every_image_of_every_source_is_found_once(tmp_path):
    urls = sources(tmp_path)
    expected = [ref for url in urls for ref in listed(url)[0]]
    pipeline = beam.Pipeline(runner=FnApiRunner())
    assert_that(pipeline | FindImages(parse_sources(urls)), equal_to(expected))
    result = pipeline.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert (counters["images_listed"], counters["files_ignored"]) == (62, 2)


def test_a_sample_holds_the_images_that_the_hash_draws(tmp_path):
    urls = sources(tmp_path)
    expected = [ref for url in urls for ref in listed(url)[0] if is_sampled(ref.image_id, 0.5, 7)]
    assert 15 < len(expected) < 45
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | FindImages(parse_sources(urls), sample=0.5, seed=7), equal_to(expected))


def test_a_limit_takes_the_smallest_draws_whatever_the_order(tmp_path):
    urls = sources(tmp_path)
    refs = [ref for url in urls for ref in listed(url)[0]]
    expected = sorted(refs, key=lambda ref: draw(ref.image_id, 3))[:10]
    for order in (urls, urls[::-1]):
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            assert_that(
                pipeline | FindImages(parse_sources(order)) | LimitImages(10, seed=3), equal_to(expected)
            )


@given(IDS, SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_sample_is_part_of_a_larger_one(image_id, seed, one, other):
    small, large = sorted((one, other))
    assert is_sampled(image_id, large, seed) or not is_sampled(image_id, small, seed)


def test_a_sample_has_the_size_that_was_asked_and_another_seed_another_one():
    ids = [f"COCO_train2014_{i:012}.jpg" for i in range(20_000)]
    first, second = ({i for i in ids if is_sampled(i, 0.1, seed)} for seed in (0, 1))
    assert len(first) == pytest.approx(2_000, rel=0.15)
    assert len(first & second) == pytest.approx(200, rel=0.5)


def test_the_draw_is_the_same_on_every_machine_and_version():
    draws = [draw(name, seed) for name, seed in (("a.jpg", 0), ("a.jpg", 1), ("é/b.png", -7))]
    assert draws == pytest.approx([0.880383, 0.087601, 0.903073], abs=1e-6)


def test_a_rate_or_limit_that_leaves_nothing_is_refused_before_anything_runs():
    with pytest.raises(RequestError, match="is no share of the images; expected above 0, at most 1"):
        FindImages([], sample=float("nan"))
    with pytest.raises(RequestError, match="leaves no image; expected 1 or more"):
        LimitImages(0)


def test_a_link_back_to_the_source_lists_no_image_twice(tmp_path):
    (tmp_path / "photos/sub").mkdir(parents=True)
    (tmp_path / "photos/a.jpg").write_bytes(b"a")
    (tmp_path / "photos/sub/b.jpg").write_bytes(b"b")
    (tmp_path / "photos/sub/loop").symlink_to(tmp_path / "photos")
    (spec,) = parse_sources([str(tmp_path / "photos")])
    listed = [ref.image_id for part in split_source(spec) for ref in list_images(part)]
    assert sorted(listed) == ["a.jpg", "sub/b.jpg"]
