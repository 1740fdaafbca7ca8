"""The table of what each option is worth: which runs are asked for, and what is printed of those that are there."""

from __future__ import annotations

import json

from benchmarks import options as worth

COCO = {
    "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (7, 8, 9)],
    "annotations": [{"id": n, "image_id": image, "caption": "a dog"} for n, image in enumerate((9, 7, 8, 7))],
}


def finish(work, name, seed, *ciders):
    bundle = worth.bundle_of(work, name, seed)
    bundle.mkdir()
    history = [
        {"epoch": number, "CIDEr": cider, "val_loss": 3 + cider, "seconds": 10.0}
        for number, cider in enumerate(ciders, 1)
    ]
    (bundle / "history.json").write_text(json.dumps(history))


def test_a_part_keeps_the_captions_of_its_images():
    part = worth.first_images(COCO, 2)
    assert [image["id"] for image in part["images"]] == [7, 8]
    assert [one["id"] for one in part["annotations"]] == [1, 2, 3]


def test_the_table_holds_rows_against_the_mean_of_the_base(tmp_path):
    finish(tmp_path, "base", 0, 0.1, 0.3, 0.2)
    finish(tmp_path, "base", 1, 0.4)
    finish(tmp_path, "gate: none", 0, 0.25)
    rows = {"gate: none": "--gate none", "not there yet": "--epochs 3"}
    assert worth.table(tmp_path, rows, 3).splitlines()[2:] == [
        "| base | 0.350 (from 0.300 to 0.400, 2 seeds) |  | 3.300 | 2 | 30 s |",
        "| gate: none | 0.250 | -0.100 | 3.250 | 1 | 10 s |",
    ]


def test_what_is_done_is_left_alone(tmp_path, monkeypatch, capsys):
    """Three runs of the base and one a row, each with its seed; the rows asked for alone."""
    asked = []
    monkeypatch.setattr(worth, "captionbeam", lambda *words: asked.append(words))
    (tmp_path / "tokens-9").mkdir()
    (tmp_path / "tokens-9/record.json").write_text("{}")
    places = ["--features", "f", "--train", "t", "--val", "v", "--work", str(tmp_path), "--images", "9"]
    assert worth.main([*places, "--only", "new", "--also", "new=--dropout 0.2"]) == 0
    outputs = [words[words.index("--output") + 1] for words in asked]
    assert outputs == [str(tmp_path / name) for name in ("base-0", "base-1", "base-2", "new-0")]
    assert asked[-1][-4:] == ("--dropout", "0.2", "--seed", "0")
    assert capsys.readouterr().out.endswith("no run of the base setting is there yet\n")
