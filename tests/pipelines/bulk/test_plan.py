"""Planning: every image in exactly one shard, contiguous in its container, the same whoever asks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.dedup import hash_contents
from captionbeam.pipelines.bulk.plan import (
    cut,
    fix_partitions,
    partition_of,
    planned_shards,
    read_shard,
    sequences,
    shard_id,
    write_plan,
)
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef
from tests.builders.data.images import drawn, encoded
from tests.builders.data.runs import features_run
from tests.builders.data.sources import make_zip
from tests.builders.running.commands import captionbeam


def loose(number: int) -> ImageRef:
    return ImageRef(f"{number}.jpg", f"/images/{number}.jpg", "/images", f"v{number}")


def member(number: int, archive: str = "/a.zip") -> ImageRef:
    return ImageRef(
        f"{archive}/{number}.jpg", archive, archive, f"crc-{number}", "zip", offset=number * 100, length=90
    )


@given(st.sets(st.integers(0, 10_000), max_size=300), st.integers(1, 64))
def test_cut_keeps_every_image_once_in_pieces_no_larger_than_asked(numbers, size):
    refs = [loose(number) for number in numbers]
    pieces = cut(refs, size)
    assert sorted(ref for piece in pieces for ref in piece) == sorted(refs)
    assert all(0 < len(piece) <= size for piece in pieces)
    assert len(pieces) == -(-len(refs) // size)


@given(st.permutations(range(40)), st.integers(1, 16))
def test_cut_does_not_depend_on_the_listing_order(order, size):
    assert cut([member(n) for n in order], size) == cut([member(n) for n in range(40)], size)


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=100), st.integers(1, 16))
def test_pieces_are_contiguous_in_their_container(numbers, size):
    pieces = cut([member(number) for number in numbers], size)
    offsets = [ref.offset for piece in pieces for ref in piece]
    assert offsets == sorted(offsets)


def cell(row: int, group: int = 0, megabytes: int = 1) -> ImageRef:
    place = f"{group}-{row}"
    return ImageRef(
        place, "/a.parquet", "/a.parquet", place, "parquet", group, row, size=megabytes << 20, column="image"
    )


def test_shards_that_share_a_large_row_group_are_done_in_order_by_one_worker(tmp_path):
    """Row group 0 has 100 MiB, 1 has 300 MiB, of which a part is done already, 2 has 10 MiB."""
    refs = (
        [cell(n) for n in range(100)] + [cell(n, 1) for n in range(40, 300)] + [cell(n, 2) for n in range(10)]
    )
    shards = write_plan(features_run(tmp_path), "/a.parquet", refs, 60)
    assert [shard.images for shard in shards] == [50, 50, 52, 52, 52, 52, 52, 10]
    assert [[shard.row_group for shard in each] for each in sequences(shards)] == [
        [0],
        [1],
        [2, 3, 4, 5, 6],
        [7],
    ]
    assert [ref for shard in shards for ref in read_shard(shard)] == refs


@given(st.permutations([loose(n) for n in range(5)]))
def test_a_shard_id_is_of_the_set_and_the_fingerprint(refs):
    assert shard_id(refs, "f") == shard_id([loose(n) for n in range(5)], "f")
    assert shard_id(refs, "f") != shard_id(refs, "g")
    assert shard_id(refs, "f") != shard_id([*refs[:-1], refs[-1]._replace(version="other")], "f")
    assert shard_id(refs, "f") != shard_id([*refs[:-1], refs[-1]._replace(replaces="s/f0")], "f")


@given(st.text(min_size=1), st.integers(1, 50))
def test_loose_files_go_by_their_id_and_members_by_their_container(image_id, partitions):
    ref = ImageRef(image_id, "/x", "/", None)
    assert partition_of(ref, partitions) in {f"loose-{n}" for n in range(partitions)}
    assert partition_of(ref._replace(kind="zip", uri="/a.zip"), partitions) == "/a.zip"


def test_who_comes_second_reads_what_the_first_planned(tmp_path):
    run = features_run(tmp_path)
    first = write_plan(run, "loose-0", [loose(n) for n in range(10)], 4)
    second = write_plan(run, "loose-0", [loose(n) for n in range(12)], 4)
    assert first == second == planned_shards(run)
    assert [shard.images for shard in first] == [3, 4, 3]
    assert [ref for shard in first for ref in read_shard(shard)] == sorted(loose(n) for n in range(10))


def test_the_number_of_partitions_is_fixed_by_whoever_comes_first(tmp_path):
    run = features_run(tmp_path)
    assert fix_partitions(1000, run, 10) == 7
    assert fix_partitions(5000, run, 10) == 7


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


def test_copies_are_planned_side_by_side():
    """Loose files by the digest of their listing, members of a zip by CRC and size; others where they lie."""
    copies = [loose(n)._replace(digest="same" if n in (1, 4) else f"md5-{n}") for n in range(6)]
    assert [ref.image_id for ref in cut(copies, 10)[0]] == [f"{n}.jpg" for n in (0, 1, 4, 2, 3, 5)]
    assert len({partition_of(ref, 64) for ref in copies if ref.digest == "same"}) == 1
    members = [member(n)._replace(version="crc" if n in (0, 3) else f"crc-{n}") for n in range(5)]
    assert [ref.offset for ref in cut(members, 10)[0]] == [0, 300, 100, 200, 400]
    assert [ref.image_id for ref in cut([loose(n) for n in (2, 0, 1)], 10)[0]] == ["0.jpg", "1.jpg", "2.jpg"]


def test_copies_share_a_shard_wherever_they_lie():
    refs = [cell(n)._replace(digest=f"sha256:{n % 200}") for n in range(300)]
    assert [ref.length for ref in cut(refs, 4)[0]] == [0, 200, 1, 201]
