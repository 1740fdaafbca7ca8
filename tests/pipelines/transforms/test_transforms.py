"""The transforms for other pipelines: the rows of the commands, as elements, on any runner."""

from __future__ import annotations

import datetime
import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.jobs.cli import main
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.pipelines.transforms import (
    Caption,
    CaptionFeatures,
    CaptionImages,
    EncodeImages,
    Failure,
    FindImages,
    ImageCaptions,
    ImageFeatures,
    PromptImages,
    ReadFeatures,
    SourceOptions,
)
from captionbeam.pipelines.transforms.process import FAILURES, ProcessImages
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats import arrow
from tests.builders.data.runs import Loads, fetch_from
from tests.builders.data.stores import Echo, answer, as_item, make_features
from tests.builders.model.models import bundle_for
from tests.builders.web.endpoint import scripted_endpoint

HOW = {"batch_size": 4, "precision": "fp32"}
ENCODER = "efficientnet_lite0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs, one file that is none, and what the commands make of them: features, a bundle, captions."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8))
        picture.save(folder / "photos" / f"{number}.jpg")
    (folder / "photos" / "broken.jpg").write_bytes(b"not a picture")
    common = ["--precision", "fp32", "--batch-size", "4", "--warn-failures", "1"]
    assert not main(
        ["encode", f"{folder}/photos", "--output", f"{folder}/features", "--encoder", ENCODER, *common]
    )
    bundle_for(f"{folder}/features", f"{folder}/bundle")
    words = ["--bundle", f"{folder}/bundle", "--output", f"{folder}/captions", "--beam", "2"]
    assert not main(["caption", f"{folder}/photos", *words, *common])
    return folder


def pipeline():
    return beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([]))


def like_the_store(folder):
    """Whether elements are the store's rows; their numbers, to what a row's place in a batch leaves of them."""
    store = Store.open(f"{folder}/features")
    (batch,) = store.scan()
    expected = zip(batch.to_pylist(), batch.column("grid").to_numpy_ndarray(), strict=True)
    about = {
        row["image_id"]: (row["uri"], row["version"], row["source"], store.fingerprint) for row, _ in expected
    }
    ids = batch.column("image_id").to_pylist()
    grids = dict(zip(ids, batch.column("grid").to_numpy_ndarray(), strict=True))

    def check(rows):
        assert {row.image_id: (row.uri, row.version, row.source, row.fingerprint) for row in rows} == about
        assert len(rows) == len(about)
        for row in rows:
            np.testing.assert_allclose(row.array, grids[row.image_id], atol=0.01)

    return check


def stored_captions(folder):
    return [
        (row["image_id"], [Caption(one["text"], one["logprob"]) for one in row["captions"]])
        for batch in Store.open(f"{folder}/captions").scan()
        for row in batch.to_pylist()
    ]


def why(failure: Failure):
    return failure.image_id, failure.stage, failure.code


def test_found_images_get_the_rows_of_the_command(made, tmp_path):
    with pipeline() as p:
        encoded = (
            p
            | FindImages(f"{made}/photos")
            | EncodeImages(ENCODER, models=f"{tmp_path}/models", threads=2, **HOW)
        )
        assert (encoded.rows.element_type, encoded.failures.element_type) == (ImageFeatures, Failure)
        assert_that(encoded.rows, like_the_store(made))
        assert_that(
            encoded.failures | "Why" >> beam.Map(why),
            equal_to([("broken.jpg", "decode", "unsupported")]),
            label="AssertFailures",
        )
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_images_made_by_hand_keep_their_windows_and_timestamps(made):
    data = {name: (made / "photos" / name).read_bytes() for name in ("0.jpg", "1.jpg", "broken.jpg")}
    at = beam.transforms.window.TimestampedValue

    def placed(row, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
        return row.image_id, float(timestamp), float(window.start)

    with pipeline() as p:
        rows, failures = (
            p
            | beam.Create([at((name, data[name]), 10.0 * n + 1) for n, name in enumerate(data)])
            | beam.Map(lambda timestamped: timestamped)
            | beam.WindowInto(beam.window.FixedWindows(10))
            | EncodeImages(ENCODER, output="pooled", **HOW)
        )
        assert_that(rows | beam.Map(placed), equal_to([("0.jpg", 1.0, 0.0), ("1.jpg", 11.0, 10.0)]))
        assert_that(
            failures | "Place" >> beam.Map(placed), equal_to([("broken.jpg", 21.0, 20.0)]), label="Failures"
        )


def test_prompts_are_asked_about_images(made):
    def texts(row: ImageCaptions):
        return row.image_id, [(one.prompt, one.text.partition(" of ")[0]) for one in row.captions]

    with scripted_endpoint() as server, pipeline() as p:
        asked = PromptImages(server.url, "scripted", {"alt": "Describe it.", "colour": "Which colour?"})
        rows, failures = p | FindImages(f"{made}/photos") | asked
        answers = [("alt", "Describe it."), ("colour", "Which colour?")]
        assert_that(rows | beam.Map(texts), equal_to([(f"{n}.jpg", answers) for n in range(6)]))
        assert_that(
            failures | "Why" >> beam.Map(why),
            equal_to([("broken.jpg", "decode", "unsupported")]),
            label="AssertFailures",
        )


def test_images_and_stored_features_get_the_captions_of_the_command(made):
    def text(row: ImageCaptions):
        return row.image_id, [Caption(one.text, round(one.logprob, 3)) for one in row.captions]

    expected = [
        (name, [Caption(one.text, round(one.logprob, 3)) for one in captions])
        for name, captions in stored_captions(made)
    ]
    with pipeline() as p:
        images = p | FindImages([made / "photos"])
        captions, failures = images | CaptionImages(made / "bundle", beam=2, **HOW)
        assert_that(captions | beam.Map(text), equal_to(expected))
        assert_that(
            failures | beam.Map(why), equal_to([("broken.jpg", "decode", "unsupported")]), label="Why"
        )
        again, none = p | ReadFeatures(f"{made}/features") | CaptionFeatures(f"{made}/bundle", beam=2, **HOW)
        assert_that(again | "Text" >> beam.Map(text), equal_to(expected), label="OfFeatures")
        assert_that(none, equal_to([]), label="NoFailures")


def columns(row):
    return row.image_id.rsplit("/")[-1], json.loads(row.columns or "{}")


def test_rows_and_failures_carry_kept_columns_along(made):
    lines = [{"url": "photos/0.jpg", "price": 2.5, "tags": ["a"]}, {"url": "photos/gone.jpg", "price": 3}]
    (made / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (made / "list.csv").write_text("url,price\nphotos/1.jpg,007\n")
    with pipeline() as p:
        rows, failures = (
            p
            | FindImages(
                [made / "list.jsonl", made / "list.csv"], options=SourceOptions(keep_columns=("all",))
            )
            | EncodeImages(ENCODER, output="pooled", **HOW)
        )
        expected = [("0.jpg", {"price": 2.5, "tags": ["a"]}), ("1.jpg", {"price": "007"})]
        assert_that(rows | beam.Map(columns), equal_to(expected))
        assert_that(
            failures | "Columns" >> beam.Map(columns),
            equal_to([("gone.jpg", {"price": 3})]),
            label="Failures",
        )


def test_rows_of_a_store_carry_its_kept_columns_along(tmp_path):
    day = datetime.date(2026, 12, 1)
    kept = pa.table({"price": [1, 2, None], "uri": ["x", None, None], "day": [day, None, None]})
    store = make_features(str(tmp_path / "store"), "abc", shard_size=2, kept=kept)
    job = Loads(Echo(arrow.grid_field("grid", (2, 2, 3))))
    expected = [("a", {"price": 1, "uri": "x", "day": "2026-12-01"}), ("b", {"price": 2}), ("c", {})]
    with pipeline() as p:
        read = p | ReadFeatures(store)
        assert_that(read | beam.Map(columns), equal_to(expected))
        again = read | beam.ParDo(ProcessImages(job, "f", fetch_from({}), store.fingerprint))
        assert_that(again | "Columns" >> beam.Map(columns), equal_to(expected), label="Again")


def test_deleted_rows_are_not_read(made):
    with pipeline() as p:
        rows = p | ReadFeatures(made / "features")
        assert rows.element_type is ImageFeatures
        assert_that(rows, like_the_store(made))
    with pytest.raises(RequestError, match="is a store of captions; expected one of features"):
        _ = pipeline() | ReadFeatures(f"{made}/captions")


def test_captions_of_other_features_are_refused(made):
    other = ImageFeatures("a", "", None, "", "0" * 32, [7, 7, 1], b"")
    with (
        pytest.raises(Exception, match=f"the features of 'a' have fingerprint {'0' * 32}; expected"),
        pipeline() as p,
    ):
        _ = p | beam.Create([other]) | CaptionFeatures(f"{made}/bundle", **HOW)


def test_an_element_that_is_no_image_is_refused(made):
    with pytest.raises(Exception, match="an element is 'a.jpg'; expected ImageRef"), pipeline() as p:
        _ = p | beam.Create(["a.jpg"]) | EncodeImages(ENCODER, **HOW)


def test_workers_elsewhere_need_a_folder_for_models():
    cluster = PipelineOptions(["--runner=FlinkRunner", "--flink_master=h:8081", "--environment_type=EXTERNAL",
                               "--environment_config=h:50000"])  # fmt: skip
    images = beam.Pipeline(options=cluster) | beam.Create([("a", b"")])
    with pytest.raises(RequestError, match="models is None, and the workers .* gs://bucket/models"):
        _ = images | EncodeImages(ENCODER, **HOW)


def test_answers_are_captions_that_name_their_prompt():
    def captions(row: ImageCaptions):
        return row.image_id, [tuple(one) for one in row.captions]

    several = EndpointSpec("m", {"b": {"text": "?"}, "a": {"text": "!", "schema": {"type": "integer"}}})
    one = EndpointSpec("m", {"a": {"text": "!"}})
    for spec, expected in (
        (several, [("1", None, "a"), ("2", None, "a"), ("x", None, "b")]),
        (one, [("1", None, None), ("2", None, None)]),
    ):
        first, *more = prompts_of(spec)
        item = {
            "a": [answer(text, first) for text in "12"],
            **{prompt.column: [answer("x", prompt)] for prompt in more},
        }
        job = Loads(Echo(first.field, *(prompt.field for prompt in more)))
        with pipeline() as p:
            rows, failures = (
                p
                | beam.Create([("i", as_item(item))])
                | beam.ParDo(ProcessImages(job, "f", fetch_from({}))).with_outputs(FAILURES, main="rows")
            )
            assert_that(rows | beam.Map(captions), equal_to([("i", expected)]))
            assert_that(failures, equal_to([]), label="NoFailures")
