"""``captionbeam tokenize`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captionbeam.jobs.cli import main
from captionbeam.schemas.formats.tokens import TokenTable
from tests.builders.data.captions import coco, write_json

TRAIN = {"a.jpg": ["A dog runs.", "Two dogs."], "b.jpg": ["A cat runs."]}
VAL = {"c.jpg": ["A zebra runs."]}


@pytest.fixture
def request_(tmp_path) -> list[str]:
    train = write_json(tmp_path / "train.json", coco(TRAIN))
    val = write_json(tmp_path / "val.json", coco(VAL))
    return ["tokenize", "--train", train, "--val", val, "--output", str(tmp_path / "tokens")]


def test_a_table_and_a_summary(request_, tmp_path, capsys):
    assert main([*request_, "--kind", "words", "--min-count", "1"]) == 0
    assert TokenTable.open(str(tmp_path / "tokens")).image_ids("train") == ["a.jpg", "b.jpg"]
    said = capsys.readouterr().out
    assert "words, min count 1" in said
    assert "10 tokens" in said
    assert "3 captions of 2 images, 2.7 tokens each, longest 3, 0 cut, 0.00% UNK" in said
    assert "1 captions of 1 images, 3.0 tokens each, longest 3, 0 cut, 33.33% UNK" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--kind", "words"], "holds another token table (kind bpe); expected the same request"),
        (
            ["--train", "none.json"],
            "there is no caption file 'none.json'; expected .json, .jsonl, .parquet or .zip",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(change, sentence, request_, tmp_path, capsys):
    main(request_)
    before = Path(tmp_path, "tokens", "record.json").read_bytes()
    capsys.readouterr()
    assert main([*request_, *change]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert Path(tmp_path, "tokens", "record.json").read_bytes() == before


def test_a_broken_row_is_one_sentence_too(request_, tmp_path, capfd, caplog):
    content = coco(VAL)
    content["annotations"][0]["image_id"] = 99
    Path(request_[4]).write_text(json.dumps(content))
    assert main(request_) == 2
    said = capfd.readouterr().err
    sentence = "annotations[0] has image_id 99; expected one of the file's 1 images"
    assert said.splitlines()[-1] == f"captionbeam: {request_[4]}: {sentence}"
    assert "Traceback" not in said
    assert not caplog.records
    assert not (tmp_path / "tokens").exists()
