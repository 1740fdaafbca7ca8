"""Purging a token table: images and captions gone, everything else as it was."""

from __future__ import annotations

import contextlib

from captionbeam.pipelines.maintenance import purge_tokens as token_purging
from captionbeam.pipelines.maintenance.purge_tokens import purge_tokens
from captionbeam.pipelines.tokens.inputs import list_inputs
from captionbeam.pipelines.tokens.tokenize import TokenizeOptions, tokenize
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.storage import files
from tests.builders.captions import coco, write_json
from tests.builders.commands import captionbeam

CAPTIONS = {
    f"{number}.jpg": [f"a dog number {number}", "a secret" if number == 3 else "a cat"] for number in range(8)
}


def make(tmp_path):
    inputs = list_inputs([write_json(tmp_path / "c.json", coco(CAPTIONS))], [], val_share=0.3)
    return tokenize(str(tmp_path / "tokens"), inputs, TokenizeOptions("words", min_count=2))


def test_the_images_and_their_captions_are_gone_and_the_rest_stays(tmp_path):
    before = make(tmp_path)
    rows = [row for row in before.table.to_pylist() if row["image_id"] != "3.jpg"]
    assert purge_tokens(before.url, ["train/3.jpg", "not-there.jpg"]) == {"3.jpg"}
    after = TokenTable.open(before.url)
    assert after.table.to_pylist() == rows
    assert sum(after.record["splits"][split]["images"] for split in ("train", "val")) == 7
    assert b"secret" not in files.read_bytes(f"{before.url}/tokens.arrow")
    assert purge_tokens(before.url, ["3.jpg"]) == set()


def test_killed_between_table_and_record_it_is_run_again(tmp_path, monkeypatch):
    before = make(tmp_path)

    def dies(url, data, write=files.write_atomic):
        if url.endswith("record.json"):
            raise KeyboardInterrupt
        write(url, data)

    with monkeypatch.context() as patch:
        patch.setattr(token_purging.files, "write_atomic", dies)
        with contextlib.suppress(KeyboardInterrupt):
            purge_tokens(before.url, ["3.jpg"])
    purge_tokens(before.url, ["3.jpg"])
    record = TokenTable.open(before.url).record
    assert record["splits"]["train"]["images"] + record["splits"]["val"]["images"] == 7


def test_by_the_console_script(tmp_path):
    table = make(tmp_path)
    (tmp_path / "ids.txt").write_text("3.jpg\n5.jpg\nother.jpg\n")
    done = captionbeam("store", "purge", table.url, "--ids", tmp_path / "ids.txt")
    assert "2 of 3 ids found" in done.stdout
    assert set(TokenTable.open(table.url).rows) == set(CAPTIONS) - {"3.jpg", "5.jpg"}
