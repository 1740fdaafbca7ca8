"""Copies by content: read ahead on request, planned together, computed once, each with a row of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from captionbeam.pipelines.bulk.dedup import hash_contents
from captionbeam.pipelines.bulk.plan import cut, partition_of
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef
from tests.builders.commands import captionbeam
from tests.builders.images import drawn, encoded
from tests.builders.sources import make_zip


def test_what_is_read_gets_a_digest_and_what_fails_stays_as_it_is():
    refs = [ImageRef(name, f"/i/{name}", "/i", "1") for name in ("a", "b", "c")]
    one, failed, two = hash_contents(
        refs, lambda _: [b"same", ImageError("timeout", "fetch", "slow"), b"same"]
    )
    assert one.digest == two.digest == "sha256:" + one.digest[7:]
    assert len(one.digest) == 71
    assert failed == refs[1]


def test_copies_in_different_containers_meet_in_one_partition_side_by_side():
    digest = "sha256:" + "0" * 64
    loose = ImageRef("a", "/i/a", "/i", "1", digest=digest)
    member = ImageRef("b", "/z.zip", "/z.zip", "1", kind="zip", digest=digest)
    assert partition_of(loose, 64) == partition_of(member, 64)
    others = [ImageRef(str(n), f"/i/{n}", "/i", "1", digest=f"sha256:{n}") for n in range(9)]
    (piece,) = cut([loose, *others, member], 100)
    assert abs(piece.index(loose) - piece.index(member)) == 1


def test_by_the_console_script(tmp_path):
    """A folder and a zip with the same pictures under other names: each is computed once."""
    pictures = {f"{n}.jpg": encoded(drawn(40 + n, 32), "JPEG") for n in range(6)}
    (tmp_path / "folder").mkdir()
    for name, data in pictures.items():
        (tmp_path / "folder" / name).write_bytes(data)
    shutil.copy(tmp_path / "folder" / "0.jpg", tmp_path / "folder" / "again.jpg")
    archive = make_zip(tmp_path / "z.zip", {f"z/{name}": data for name, data in pictures.items()})
    flags = ("--encoder", "efficientnet_lite0", "--image-size", "64", "--pooled", "--dedup-content")
    done = captionbeam("encode", tmp_path / "folder", archive, "--output", tmp_path / "store", *flags)
    (totals,) = Path(tmp_path / "store").glob("plans/*/totals.json")
    assert json.loads(totals.read_text())["copies"] == 7, done.stdout
    rows = {
        name: row
        for batch in Store.open(str(tmp_path / "store")).scan()
        for name, row in zip(
            batch.column("image_id").to_pylist(), batch.column("pooled").to_numpy_ndarray(), strict=True
        )
    }
    assert len(rows) == 13
    for name in pictures:
        np.testing.assert_array_equal(rows[name], rows[f"z/{name}"])
    np.testing.assert_array_equal(rows["0.jpg"], rows["again.jpg"])
