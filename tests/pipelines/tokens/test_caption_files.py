"""Every kind of caption file is read to its last row, and a broken one is said in one sentence."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.tokens.caption_files import (
    CaptionFile,
    CaptionRecord,
    Reference,
    find_captions,
    read_captions,
    read_references,
)
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files
from tests.builders.data.captions import coco, karpathy, write_json, write_lines, write_parquet, write_zip

TWO = {"a.jpg": ["A dog.", "Two dogs."], "b.jpg": ["A cat."]}


def read(url: str, member: str | None = None) -> list[tuple[str, str, str, str]]:
    return [tuple(record) for record in read_captions(url, member)]


class TestCoco:
    def test_each_caption_has_its_images_id_and_file_name(self, tmp_path):
        url = write_json(tmp_path / "c.json", coco(TWO, first_id=7))
        assert read(url) == [
            ("7", "a.jpg", "A dog.", ""),
            ("7", "a.jpg", "Two dogs.", ""),
            ("8", "b.jpg", "A cat.", ""),
        ]

    @pytest.mark.parametrize(
        ("part", "row", "change", "sentence"),
        [
            (
                "annotations",
                1,
                {"image_id": 99},
                r"annotations\[1\] has image_id 99; expected one of the file's 2",
            ),
            ("annotations", 2, {"caption": 5}, r"annotations\[2\] has the caption 5; expected a string"),
            ("annotations", 0, {"caption": "\ud800"}, r"'\\ud800', which is not valid Unicode"),
            (
                "images",
                1,
                {"id": 0},
                r"images\[1\] has id 0, which an image before it has; expected unique ids",
            ),
        ],
    )
    def test_a_broken_row_is_named(self, part, row, change, sentence, tmp_path):
        content = coco(TWO)
        content[part][row] |= change
        url = write_json(tmp_path / "c.json", content)
        with pytest.raises(RequestError, match=rf"c\.json: .*{sentence}"):
            read(url)

    def test_what_is_another_json_or_none(self, tmp_path):
        with pytest.raises(RequestError, match=r"c\.json is neither COCO's captions .* nor Karpathy's"):
            read(write_json(tmp_path / "c.json", {"images": 3, "annotations": []}))
        (tmp_path / "c.json").write_bytes(b"\xff\xfe{}")
        with pytest.raises(RequestError, match=r"c\.json is not JSON: "):
            read(str(tmp_path / "c.json"))

    def test_a_gzip_that_was_cut_off(self, tmp_path):
        (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps(coco(TWO)).encode())[:-20])
        with pytest.raises(
            RequestError, match=r"c\.json\.gz' cannot be unpacked .*; expected a whole zip or gzip"
        ):
            read(str(tmp_path / "c.json.gz"))

    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
        )
    )
    def test_whatever_was_written_is_read(self, captions):
        files.write_atomic("memory://captions/any.json", json.dumps(coco(captions)).encode())
        read_back: dict[str, list[str]] = {}
        for record in read_captions("memory://captions/any.json"):
            read_back.setdefault(record.file_name, []).append(record.caption)
        assert read_back == {name: several for name, several in captions.items() if several}


class TestZip:
    def test_the_only_caption_file_is_taken(self, tmp_path):
        url = write_zip(
            tmp_path / "c.zip", {"annotations/captions_val.json": coco(TWO), "annotations/instances.json": {}}
        )
        assert find_captions(url) == [CaptionFile(url, "annotations/captions_val.json")]
        assert [caption for _, _, caption, _ in read(url)] == ["A dog.", "Two dogs.", "A cat."]

    def test_of_several_one_is_chosen_by_name_or_base_name(self, tmp_path):
        url = write_zip(
            tmp_path / "c.zip", {"a/captions_train.json": coco(TWO), "a/captions_val.json": coco({})}
        )
        for member in ("a/captions_train.json", "captions_train.json"):
            assert find_captions(url, member) == [CaptionFile(url, "a/captions_train.json")]
        assert len(read(f"zip://a/captions_train.json::{url}")) == 3

    def test_a_damaged_member(self, tmp_path):
        url = write_zip(
            tmp_path / "c.zip", {"captions.json": coco({f"{i}.jpg": ["A dog."] for i in range(99)})}
        )
        data = bytearray(Path(url).read_bytes())
        data[100:140] = bytes(40)
        Path(url).write_bytes(data)
        with pytest.raises(RequestError, match=r"c\.zip' cannot be unpacked"):
            read(url)


class TestKarpathy:
    def test_every_caption_carries_its_split(self, tmp_path):
        rows = [
            ("a.jpg", "train", ["A dog."]),
            ("b.jpg", "restval", ["A cat."]),
            ("c.jpg", "test", ["A cow."]),
        ]
        assert read(write_json(tmp_path / "k.json", karpathy(rows))) == [
            ("0", "a.jpg", "A dog.", "train"),
            ("1", "b.jpg", "A cat.", "train"),
            ("2", "c.jpg", "A cow.", "test"),
        ]


class TestRows:
    def test_json_lines(self, tmp_path):
        rows = [
            {"image_id": 3, "caption": "A dog.", "split": "validation"},
            {"file_name": "b.jpg", "captions": ["A cat.", "Cats."], "image_id": None},
        ]
        assert read(write_lines(tmp_path / "c.jsonl", rows)) == [
            ("3", "", "A dog.", "val"),
            ("", "b.jpg", "A cat.", ""),
            ("", "b.jpg", "Cats.", ""),
        ]

    def test_parquet(self, tmp_path):
        rows = [
            {"image_id": 3, "file_name": None, "captions": ["A dog."], "image": b"..."},
            {"image_id": 4, "file_name": "b.jpg", "captions": ["A cat.", "Cats."], "image": b"..."},
        ]
        assert read(write_parquet(tmp_path / "c.parquet", rows)) == [
            ("3", "", "A dog.", ""),
            ("4", "b.jpg", "A cat.", ""),
            ("4", "b.jpg", "Cats.", ""),
        ]

    @pytest.mark.parametrize(
        ("row", "sentence"),
        [
            ({"caption": "A dog."}, "names no image; expected image_id or file_name"),
            ({"image_id": 1.5, "caption": ""}, "has image_id 1.5; expected a whole number or a string"),
            ({"image_id": 1}, "has both caption and captions, or neither; expected one of them"),
        ],
    )
    def test_a_broken_line_is_named(self, row, sentence, tmp_path):
        url = write_lines(tmp_path / "c.jsonl", [{"image_id": 1, "caption": "A dog."}, row])
        with pytest.raises(RequestError, match=rf"c\.jsonl: line 2 {sentence}"):
            read(url)


class TestFinding:
    def test_wildcards_give_every_file_in_order(self, tmp_path):
        for name in ("b", "a"):
            write_lines(tmp_path / f"{name}.jsonl", [{"image_id": name, "caption": "A dog."}])
        pattern = str(tmp_path / "*.jsonl")
        assert [found.url for found in find_captions(pattern)] == [str(tmp_path / f"{n}.jsonl") for n in "ab"]
        assert [image_id for image_id, *_ in read(pattern)] == ["a", "b"]

    def test_a_file_that_is_there_is_no_pattern(self, tmp_path):
        folder = tmp_path / "we [1] #?"
        folder.mkdir()
        names = [write_json(folder / f"{name}.json", coco(TWO)) for name in ("c [1]", "c 1")]
        assert find_captions(str(folder / "c [1].json")) == [CaptionFile(names[0])]
        assert find_captions(str(folder / "c*.json")) == [CaptionFile(names[1]), CaptionFile(names[0])]


class TestReferences:
    def test_captions_are_gathered_by_image_in_the_files_order(self, tmp_path):
        url = write_json(tmp_path / "c.json", coco(TWO))
        assert read_references(url) == [
            Reference("0", "a.jpg", ["A dog.", "Two dogs."]),
            Reference("1", "b.jpg", ["A cat."]),
        ]


@pytest.mark.skipif(
    "CAPTIONBEAM_DATA" not in os.environ, reason="CAPTIONBEAM_DATA names no folder of real data"
)
def test_all_of_coco_val2014_is_read_from_its_zip():
    url = str(Path(os.environ["CAPTIONBEAM_DATA"]) / "coco-captions/captions_val2014.zip")
    records = list(read_captions(url))
    assert (len(records), len({record.key for record in records})) == (202_654, 40_504)
    assert isinstance(records[0], CaptionRecord)
