"""``captionbeam encode --encoder hf:PATH``: a tower of transformers in the bulk job."""

from __future__ import annotations

import shutil

from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.data.stores import rows_of
from tests.builders.model.towers import PROJECTION, save_tower
from tests.builders.running.commands import captionbeam


def test_a_folder_is_recorded_by_its_path_and_kept_in_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tower(tmp_path / "clip", "clip")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.png").write_bytes(encoded(drawn(40 + 9 * number, 50), "PNG"))
    captionbeam("encode", "photos", "--encoder", "hf:clip", "--pooled", "--output", "store")
    store = Store.open("store")
    assert {row.shape for row in rows_of(store).values()} == {(PROJECTION,)}
    assert store.snapshot.request["options"]["encoder"] == f"hf:{tmp_path / 'clip'}"
    assert "nothing to do" in captionbeam("refresh", "store").stdout
    moved = shutil.copytree(tmp_path / "clip", tmp_path / "other")
    shutil.rmtree(tmp_path / "clip")
    assert "nothing to do" in captionbeam("refresh", "store", "--encoder", f"hf:{moved}", "--pooled").stdout
    missing = captionbeam("refresh", "store", status=2)
    assert f"'{tmp_path / 'clip'}' has no config.json; expected a folder" in missing.stderr
