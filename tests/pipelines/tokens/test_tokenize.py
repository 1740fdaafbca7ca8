"""Captions in, one token table out: whole or not there, the same bytes whatever the runner's order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captionbeam.capmodel.tokenizers import END, START, UNK, load_tokenizer
from captionbeam.pipelines.bulk.find import is_sampled
from captionbeam.pipelines.tokens.inputs import InputFile, list_inputs
from captionbeam.pipelines.tokens.tokenize import TokenizeOptions, tokenize
from captionbeam.schemas.errors import RequestError, StoreError
from captionbeam.schemas.formats.tokens import TokenTable
from tests.builders.data.captions import coco, karpathy, write_json

TRAIN = {"a.jpg": ["A dog runs.", "Two dogs."], "b.jpg": ["A cat runs."]}
VAL = {"c.jpg": ["A zebra runs."]}
SPLIT_ROWS = [
    ("a.jpg", "train", ["A dog."]),
    ("b.jpg", "restval", ["A cat."]),
    ("c.jpg", "val", ["A cow."]),
    ("d.jpg", "test", ["A hen.", "Hens."]),
]
WORDS = TokenizeOptions("words", min_count=1)


def inputs(folder: Path, train: dict = TRAIN, val: dict = VAL) -> list[InputFile]:
    return list_inputs(
        [write_json(folder / "train.json", coco(train))], [write_json(folder / "val.json", coco(val))]
    )


def written(folder: Path) -> list[InputFile]:
    """What ``inputs`` wrote, listed again."""
    return list_inputs([str(folder / "train.json")], [str(folder / "val.json")])


def contents(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "record.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def output(tmp_path) -> str:
    return str(tmp_path / "tokens")


class TestTable:
    def test_one_row_an_image_sorted_with_captions_raw_and_as_ids(self, tmp_path, output):
        table = tokenize(output, inputs(tmp_path), WORDS)
        vocab = load_tokenizer(table.tokenizer_url).vocab
        assert vocab[4:] == ("a", "runs", "cat", "dog", "dogs", "two")
        assert table.table.to_pylist() == [
            {
                "image_id": "a.jpg",
                "file_name": "a.jpg",
                "coco_id": "0",
                "split": "train",
                "captions": ["A dog runs.", "Two dogs."],
                "tokens": [[START, 4, 7, 5, END], [START, 9, 8, END]],
            },
            {
                "image_id": "b.jpg",
                "file_name": "b.jpg",
                "coco_id": "1",
                "split": "train",
                "captions": ["A cat runs."],
                "tokens": [[START, 4, 6, 5, END]],
            },
            {
                "image_id": "c.jpg",
                "file_name": "c.jpg",
                "coco_id": "0",
                "split": "val",
                "captions": ["A zebra runs."],
                "tokens": [[START, 4, UNK, 5, END]],
            },
        ]

    def test_captions_without_a_word_are_left_out_and_counted(self, tmp_path, output):
        captions = {"a.jpg": ["A dog.", "", "..."], "b.jpg": [" "]}
        table = tokenize(output, inputs(tmp_path, captions), WORDS)
        assert table.image_ids("train") == ["a.jpg"]
        assert table.record["left_out"] == {"captions_of_other_splits": 0, "captions_without_a_word": 3}

    def test_the_same_request_gives_the_same_bytes(self, tmp_path):
        many = {f"{i}.jpg": [f"a dog and {i} cats", "dogs " * (i % 7 + 1)] for i in range(200)}
        one = tokenize(str(tmp_path / "one"), inputs(tmp_path, many), TokenizeOptions())
        two = tokenize(str(tmp_path / "two"), inputs(tmp_path, many), TokenizeOptions())
        assert contents(one.url) == contents(two.url)
        assert one.sha256 == two.sha256


class TestSplits:
    @pytest.mark.parametrize("named_for_val_too", [False, True])
    def test_a_file_with_splits_brings_them_all(self, named_for_val_too, tmp_path, output):
        url = write_json(tmp_path / "k.json", karpathy(SPLIT_ROWS))
        table = tokenize(output, list_inputs([url], [url] if named_for_val_too else []), WORDS)
        splits = {split: table.image_ids(split) for split in ("train", "val", "test")}
        assert splits == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"], "test": ["d.jpg"]}
        assert load_tokenizer(table.tokenizer_url).vocab[4:] == ("a", "cat", "dog")

    def test_an_image_in_two_splits_is_refused(self, tmp_path, output):
        with pytest.raises(
            RequestError, match=r"image 'a.jpg' is in train and val; expected it in one split"
        ):
            tokenize(output, inputs(tmp_path, TRAIN, {"a.jpg": ["A dog."]}), WORDS)
        assert not os.path.exists(output)

    def test_one_file_for_both_without_splits_is_refused(self, tmp_path, output):
        url = write_json(tmp_path / "c.json", coco(TRAIN))
        with pytest.raises(
            RequestError, match=r"is named for both --train and --val, but does not say which"
        ):
            tokenize(output, list_inputs([url], [url]), WORDS)

    def test_a_share_of_the_images_is_for_validation_whatever_the_files_order(self, tmp_path, output):
        many = {f"{i}.jpg": [f"a dog and {i} cats", "a cat"] for i in range(400)}
        url = write_json(tmp_path / "c.json", coco(many))
        table = tokenize(output, list_inputs([url], [], val_share=0.1), WORDS)
        drawn = sorted(name for name in many if is_sampled(name, 0.1, seed=0))
        assert table.image_ids("val") == drawn
        assert 20 <= len(drawn) <= 60
        assert len(table.image_ids("train")) == 400 - len(drawn)
        turned = write_json(tmp_path / "d.json", coco(dict(reversed(many.items()))))
        again = tokenize(str(tmp_path / "again"), list_inputs([turned], [], val_share=0.1), WORDS)
        assert again.image_ids("val") == drawn


class TestRequests:
    def test_a_second_run_has_nothing_to_do(self, tmp_path, output):
        tokenize(output, inputs(tmp_path), WORDS)
        before = {path: os.stat(path).st_mtime_ns for path in Path(output).rglob("*")}
        assert tokenize(output, written(tmp_path), WORDS) is None
        assert {path: os.stat(path).st_mtime_ns for path in Path(output).rglob("*")} == before

    def test_another_request_is_refused_and_says_what_is_there(self, tmp_path, output):
        tokenize(output, inputs(tmp_path), WORDS)
        with pytest.raises(RequestError, match=r"another token table \(kind words, min count 1\); expected"):
            tokenize(output, written(tmp_path), TokenizeOptions())

    def test_overwriting_leaves_nothing_of_the_old_one(self, tmp_path, output):
        tokenize(output, inputs(tmp_path), TokenizeOptions())
        table = tokenize(output, inputs(tmp_path), WORDS, overwrite=True)
        assert sorted(contents(output)) == [
            "tokenizer/tokenizer.json",
            "tokenizer/vocab.json",
            "tokens.arrow",
        ]
        assert table.record["tokenizer"]["kind"] == "words"

    def test_a_broken_file_publishes_nothing(self, tmp_path, output):
        found = inputs(tmp_path)
        (tmp_path / "val.json").write_text("{")
        with pytest.raises(RequestError, match=r"val\.json is not JSON"):
            tokenize(output, found, WORDS)
        assert not os.path.exists(output)


class TestHalfWritten:
    """The record is written last: without it there is no token table."""

    def test_without_its_record_there_is_no_table(self, tmp_path, output):
        tokenize(output, inputs(tmp_path), WORDS)
        os.unlink(f"{output}/record.json")
        with pytest.raises(
            StoreError, match="holds no token table; expected a folder that captionbeam tokenize wrote"
        ):
            TokenTable.open(output)
        assert tokenize(output, inputs(tmp_path), WORDS).image_ids("train") == ["a.jpg", "b.jpg"]


def test_nothing_is_learned_from_validation_captions(tmp_path, output):
    table = tokenize(output, inputs(tmp_path), TokenizeOptions())
    alphabet = {token[0] for token in load_tokenizer(table.tokenizer_url).vocab[4:]}
    assert alphabet == set("adogruns.twc")


def test_changed_captions_are_another_request(tmp_path, output):
    tokenize(output, inputs(tmp_path), WORDS)
    with pytest.raises(RequestError, match=r"another token table \(other captions\)"):
        tokenize(output, inputs(tmp_path, {**TRAIN, "d.jpg": ["A cow."]}), WORDS)


def test_a_damaged_table(tmp_path, output):
    tokenize(output, inputs(tmp_path), WORDS)
    Path(output, "tokens.arrow").write_bytes(b"ARROW1")
    with pytest.raises(
        StoreError, match=r"tokens.arrow in .* cannot be read .*; tokenize again with --overwrite"
    ):
        TokenTable.open(output)
