"""captionbeam evaluate: captions of a store or a results file, joined to references, scored and said."""

from __future__ import annotations

import datetime
import gzip
import json
import shutil
import sys

import pyarrow as pa
import pytest

from captionbeam.capmodel.metrics import SCORES, score
from captionbeam.jobs.cli import main
from captionbeam.jobs.reporting.scoring import join_references, read_captions
from captionbeam.pipelines.tokens.caption_files import Reference
from captionbeam.schemas.errors import RequestError
from tests.builders.data.captions import coco, karpathy, write_json
from tests.builders.data.stores import make_answers, make_captions

CAPTIONS = {"val/1.jpg": "a dog runs", "val/2.jpg": "two cats sleep", "val/3.jpg": "a red car"}
REFERENCES = {
    "1.jpg": ["A dog is running.", "The dog runs"],
    "2.jpg": ["Two cats are asleep."],
    "3.jpg": ["A red car on a road"],
}


@pytest.fixture
def store(tmp_path):
    make_captions(str(tmp_path / "captions"), CAPTIONS)
    return str(tmp_path / "captions")


@pytest.fixture
def references(tmp_path):
    return write_json(tmp_path / "references.json", coco(REFERENCES, first_id=1))


def results(tmp_path, rows) -> str:
    return write_json(tmp_path / "results.json", rows)


def evaluate(capsys, *arguments: str) -> dict:
    assert main(["evaluate", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_store_and_a_results_file_with_the_same_captions_score_the_same(
    capsys, tmp_path, store, references
):
    rows = [{"image_id": number, "caption": text} for number, text in enumerate(CAPTIONS.values(), start=1)]
    by_store = evaluate(capsys, "--captions", store, "--references", references)
    by_file = evaluate(capsys, "--captions", results(tmp_path, rows), "--references", references)
    expected = score({name: CAPTIONS[f"val/{name}"] for name in REFERENCES}, REFERENCES)
    for name in SCORES:
        assert by_store[name] == by_file[name] == pytest.approx(expected[name])
    assert by_store["counts"] == by_file["counts"]
    assert by_store["counts"]["testlen"] == 9


def test_json_is_one_object_with_scores_counts_and_what_the_captions_are_like(capsys, store, references):
    record = evaluate(capsys, "--captions", store, "--references", references)
    assert set(record) == {
        *SCORES, "counts", "images", "references", "variety", "captions", "references_from",
        "images_without_caption", "captions_without_references",
    }  # fmt: skip
    assert (record["images"], record["references"]) == (3, 4)
    variety = {"captions": 3, "distinct": 3, "distinct_share": 1.0, "mean_words": 3.0, "vocabulary": 8}
    assert record["variety"] == variety


@pytest.mark.skipif(not shutil.which("java"), reason="METEOR is a Java program")
def test_meteor_of_all_captions_and_of_each_image(capsys, tmp_path, store, references):
    where = [
        "--captions",
        store,
        "--references",
        references,
        "--meteor",
        "--per-image",
        str(tmp_path / "each"),
    ]
    found = evaluate(capsys, *where)
    rows = [json.loads(line) for line in (tmp_path / "each").read_text().splitlines()]
    assert all(0 < row["METEOR"] < 1 for row in rows)
    assert 0 < found["METEOR"] < 1
    assert "METEOR" not in evaluate(capsys, *where[:4])


def test_what_meteor_needs_is_told_before_anything_is_read(capsys, monkeypatch, tmp_path, references):
    what = ["evaluate", "--captions", "nowhere", "--references", references, "--meteor"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(what) == 2
    assert "there is no java on the PATH; expected Java 8 or newer" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pycocoevalcap.meteor.meteor", None)
    assert main(what) == 2
    assert "pycocoevalcap is not installed; expected pip install '.[meteor]'" in capsys.readouterr().err


def test_a_meteor_program_that_ends_early_is_one_sentence(capsys, monkeypatch, tmp_path, store, references):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho Could not reserve enough space for object heap >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{java.parent}:/usr/bin:/bin")
    assert main(["evaluate", "--captions", store, "--references", references, "--meteor"]) == 1
    assert "ended early (Could not reserve enough space for object heap)" in capsys.readouterr().err


def test_captions_come_from_an_export_as_json_lines(capsys, tmp_path, store, references):
    out = str(tmp_path / "out")
    assert main(["store", "export", store, "--output", out, "--format", "jsonl", "--rows-per-file", "2"]) == 0
    capsys.readouterr()
    assert read_captions(out) == read_captions(f"{out}/part-*.jsonl") == CAPTIONS
    assert read_captions(f"{out}/part-00001.jsonl") == {"val/3.jpg": "a red car"}
    exported = evaluate(capsys, "--captions", out, "--references", references)
    assert exported["CIDEr"] == evaluate(capsys, "--captions", store, "--references", references)["CIDEr"]


@pytest.mark.parametrize("end", [".jsonl", ".ndjson", ".JSONL", ".jsonl.gz"])
@pytest.mark.parametrize("key", ["image_id", "file_name"])
def test_results_may_be_json_lines(tmp_path, end, key):
    lines = "\n\n".join(json.dumps({key: image, "caption": text}) for image, text in CAPTIONS.items())
    path = tmp_path / f"results{end}"
    path.write_bytes(gzip.compress(lines.encode()) if end.endswith(".gz") else lines.encode())
    assert read_captions(str(path)) == CAPTIONS


def test_broken_lines_of_an_export_are_named(tmp_path):
    path = tmp_path / "part.jsonl"
    path.write_text(
        '{"image_id": "a", "captions": []}\n{"image_id": "b", "captions": [{"text": "x"}]}\n{"image_id"'
    )
    with pytest.raises(
        RequestError, match=r"part.jsonl': line 3 is not JSON: .*; expected a row of a captions store or"
    ):
        read_captions(str(path))
    path.write_text('{"image_id": "b", "captions": [{"text": "x"}]}\n' * 2)
    with pytest.raises(
        RequestError, match="part.jsonl': line 2 is the second of image 'b'; expected one each"
    ):
        read_captions(str(path))


def test_references_of_several_files_add_up(capsys, tmp_path, store, references):
    ids = [{"file_name": f"images/{name}", "captions": ["One more"]} for name in ("1.jpg", "9.jpg")]
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in ids))
    together = evaluate(capsys, "--captions", store, "--references", references, str(more))
    repeated = evaluate(capsys, "--captions", store, "--references", references, "--references", str(more))
    expected = score(
        {name: CAPTIONS[f"val/{name}"] for name in REFERENCES},
        {**REFERENCES, "1.jpg": [*REFERENCES["1.jpg"], "One more"]},
    )
    assert together == repeated
    assert together["CIDEr"] == pytest.approx(expected["CIDEr"])
    assert (together["images"], together["references"], together["images_without_caption"]) == (3, 5, 1)
    assert together["references_from"] == [references, str(more)]


def test_leftovers_on_either_side_are_counted_said_and_left_out(capsys, tmp_path, store):
    some = {"1.jpg": REFERENCES["1.jpg"], "2.jpg": REFERENCES["2.jpg"], "9.jpg": ["Nobody described this"]}
    path = write_json(tmp_path / "some.json", coco(some))
    assert main(["evaluate", "--captions", store, "--references", path, "--json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    left_out = record["images_without_caption"], record["captions_without_references"]
    assert (record["images"], left_out) == (2, (1, 1))
    assert printed.err == (
        "left out: references of 1 image (such as '9.jpg') without a caption, "
        "and captions of 1 image (such as 'val/3.jpg') without references\n"
    )
    known = {name: texts for name, texts in some.items() if name != "9.jpg"}
    assert record["CIDEr"] == pytest.approx(score({k: CAPTIONS[f"val/{k}"] for k in known}, known)["CIDEr"])


def test_a_split_of_karpathys_file_alone(capsys, tmp_path, store):
    rows = [
        ("1.jpg", "test", REFERENCES["1.jpg"]),
        ("2.jpg", "test", REFERENCES["2.jpg"]),
        ("3.jpg", "val", REFERENCES["3.jpg"]),
    ]
    path = write_json(tmp_path / "dataset.json", karpathy(rows, filepath="val2014"))
    record = evaluate(capsys, "--captions", store, "--references", path, "--split", "test")
    assert (record["images"], record["captions_without_references"]) == (2, 1)


def test_each_images_scores_on_request(capsys, tmp_path, store, references):
    path = tmp_path / "images.jsonl"
    record = evaluate(capsys, "--captions", store, "--references", references, "--per-image", str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["image_id"], row["caption"]) for row in rows] == list(CAPTIONS.items())
    assert sum(row["CIDEr"] for row in rows) / 3 == pytest.approx(record["CIDEr"])


def test_each_images_line_has_the_columns_kept_from_the_input(capsys, tmp_path, references):
    """Of a store and of its export alike."""
    kept = pa.table(
        {"caption": ["x", "y", None], "day": [datetime.date(2024, 1, 1), None, None], "price": [1, 2, 3]}
    )
    url, out, path = str(tmp_path / "captions"), str(tmp_path / "out"), tmp_path / "images.jsonl"
    make_captions(url, CAPTIONS, kept=kept)
    assert main(["store", "export", url, "--output", out, "--format", "jsonl"]) == 0
    capsys.readouterr()
    for captions in (url, out):
        evaluate(capsys, "--captions", captions, "--references", references, "--per-image", str(path))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [
            {name: row[name] for name in ("caption", "input_caption", "day", "price")} for row in rows
        ] == [
            {"caption": "a dog runs", "input_caption": "x", "day": "2024-01-01", "price": 1},
            {"caption": "two cats sleep", "input_caption": "y", "day": None, "price": 2},
            {"caption": "a red car", "input_caption": None, "day": None, "price": 3},
        ]


def test_numbers_join_by_id_and_names_by_name():
    references = [
        Reference("1", "one.jpg", ["x"]),
        Reference("2", "two.jpg", ["y"]),
        Reference("3", "", ["z"]),
    ]
    pairs = join_references({"2": "b", "val/one.jpg": "a", "3": "c"}, references)
    assert pairs.references == {"val/one.jpg": ["x"], "2": ["y"], "3": ["z"]}
    assert pairs.captions == {"val/one.jpg": "a", "2": "b", "3": "c"}
    assert pairs.leftovers() == ""


def test_nothing_in_common_is_a_wrong_request(capsys, tmp_path, store):
    path = write_json(tmp_path / "other.json", coco({"x.jpg": ["Something else"]}, first_id=77))
    assert main(["evaluate", "--captions", store, "--references", path]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "captionbeam: 3 captions and the references of 1 images have no image in common "
        "(captions have 'val/1.jpg', references 'x.jpg'); expected the same ids or file names\n"
    )


def test_a_base_name_that_fits_several_captions_is_an_error():
    with pytest.raises(RequestError, match=r"'1.jpg' fits 2 images"):
        join_references({"a/1.jpg": "a dog", "b/1.jpg": "a cat"}, [Reference("7", "1.jpg", ["x"])])


PROMPTS = {"caption": {"text": "Describe."}, "colour": {"text": "Which colour?"}}


def test_one_prompts_answers_are_scored(capsys, tmp_path, store, references):
    rows = {name: {"caption": [text, "x"], "colour": ["red"]} for name, text in CAPTIONS.items()}
    answers = make_answers(f"{tmp_path}/answers", rows, PROMPTS).url
    expected = evaluate(capsys, "--captions", store, "--references", references)
    found = evaluate(capsys, "--captions", answers, "--references", references, "--column", "caption")
    assert {name: found[name] for name in SCORES} == {name: expected[name] for name in SCORES}
    out = f"{tmp_path}/out"
    assert main(["store", "export", answers, "--output", out, "--format", "jsonl"]) == 0
    assert read_captions(out, "caption") == read_captions(f"{out}/part-*.jsonl", "caption") == CAPTIONS
    for place in (answers, out):
        with pytest.raises(RequestError) as refused:
            read_captions(place)
        said = f"{place} has answers to several prompts; expected --column with one of caption, colour"
        assert str(refused.value) == said
        with pytest.raises(RequestError) as refused:
            read_captions(place, "size")
        assert str(refused.value) == f"--column size is not in {place}; expected one of caption, colour"


def test_a_single_named_prompt_needs_no_column(tmp_path):
    rows = {name: {"caption": [text]} for name, text in CAPTIONS.items()}
    answers = make_answers(f"{tmp_path}/answers", rows, {"caption": PROMPTS["caption"]})
    assert read_captions(answers.url) == CAPTIONS
    assert main(["store", "export", answers.url, "--output", f"{tmp_path}/out", "--format", "jsonl"]) == 0
    assert read_captions(f"{tmp_path}/out") == CAPTIONS
