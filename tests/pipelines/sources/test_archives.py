"""Zips and tars read in place: what is listed of them, and what their damage leads to."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.records import ImageRef
from tests.builders.data.sources import (
    counted,
    encrypt_members,
    listed,
    make_folder,
    make_raw_zip,
    make_tar,
    make_zip,
    picture,
    unicode_path,
)

PICTURES = {f"train/{name}.jpg": picture(name) for name in ("a", "b", "c")}


def test_members_are_listed_by_name_with_checksum_and_size_as_version(tmp_path):
    path = make_zip(tmp_path / "x.zip", PICTURES)
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    place = {"uri": str(path), "source": str(path), "kind": "zip", "length": 500, "method": 0, "size": 500}
    assert listed(path) == ([
        ImageRef(name, version=f"{info.CRC:08x}-500", offset=info.header_offset, **place)
        for name, info in infos.items()
    ], [])  # fmt: skip


def test_offsets_and_sizes_beyond_four_gigabytes_are_understood(tmp_path):
    """A hole of 5 GB before the archive, which takes no disk, moves every offset past 32 bits."""
    inner = make_zip(tmp_path / "inner.zip", PICTURES).read_bytes()
    path = tmp_path / "x.zip"
    with open(path, "wb") as stream:
        stream.truncate(5 << 30)
        stream.seek(0, io.SEEK_END)
        stream.write(inner)
    refs, _ = listed(path)
    assert refs[0].offset == 5 << 30
    assert fetch(refs) == list(PICTURES.values())


def test_an_encrypted_member_is_listed_and_fails_alone(tmp_path):
    path = make_zip(tmp_path / "x.zip", PICTURES)
    encrypt_members(path)
    refs, _ = listed(path)
    results = fetch(refs)
    assert [(error.code, error.stage) for error in results] == [("unsupported", "fetch")] * 3
    assert str(results[0]) == (
        f"fetch: unsupported: zip://train/a.jpg::{path}: is encrypted; expected stored or deflated"
    )


def test_paths_that_lead_out_of_an_archive_are_only_names(tmp_path):
    contents = {
        "../../escape.jpg": picture("1"),
        "/etc/absolute.jpg": picture("2"),
        "C:\\x.jpg": picture("3"),
    }
    before = sorted(tmp_path.parent.iterdir())
    for path in (make_zip(tmp_path / "x.zip", contents), make_tar(tmp_path / "x.tar", contents)):
        refs, _ = listed(path)
        assert [ref.image_id for ref in refs] == list(contents)
        assert fetch(refs) == list(contents.values())
    assert sorted(tmp_path.parent.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar", "x.zip"]


def test_a_cut_zip_is_refused_at_once(tmp_path):
    path = make_zip(tmp_path / "x.zip", PICTURES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError) as caught:
        parse_sources([str(path)])
    assert str(caught.value) == f"source '{path}' is not a zip or is cut short; expected a whole .zip"


def test_tar_members_are_listed_by_name_with_size_and_time_as_version(tmp_path):
    path = make_tar(tmp_path / "x.tar", PICTURES | {"readme.md": b"x"})
    refs, ignored = listed(path)
    assert [(ref.image_id, ref.kind, ref.length, ref.version) for ref in refs] == [
        (name, "tar", 500, "500-1700000000") for name in PICTURES
    ]
    assert ignored == ["readme.md"]
    assert fetch(refs) == list(PICTURES.values())


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read_long_names_too(tmp_path, kind):
    contents = {f"{'long/' * 30}{i}.jpg": picture(str(i)) for i in range(3)}
    refs, _ = listed(make_tar(tmp_path / "x.tar", contents, kind))
    assert [ref.image_id for ref in refs] == list(contents)
    assert fetch(refs) == list(contents.values())


def test_links_in_a_tar_are_listed_and_fail_alone(tmp_path):
    path = make_tar(tmp_path / "x.tar", {"a.jpg": picture("a")})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.jpg"
            archive.addfile(link)
    results = fetch(listed(path)[0])
    assert results[0] == picture("a")
    assert [(error.code, error.message.split(": ")[1]) for error in results[1:]] == [
        ("unsupported", "is a symbolic link; expected a regular file"),
        ("unsupported", "is a hard link; expected a regular file"),
    ]


@pytest.mark.parametrize("cut", [1500, 1024, 700])
def test_a_tar_that_stops_early_is_refused_and_not_taken_for_a_short_one(tmp_path, cut):
    path = make_tar(tmp_path / "x.tar", PICTURES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError, match=r"x\.tar' (is cut short|has no end marker|has a damaged header)"):
        listed(path)


def test_a_compressed_tar_is_refused_with_the_reason(tmp_path):
    make_folder(tmp_path, {"X.TAR.GZ": b"anything"})
    with pytest.raises(SourceError, match="is a compressed tar, without random access"):
        parse_sources([f"{tmp_path}/X.TAR.GZ"])


def test_archives_of_a_folder_or_glob_are_one_source_of_many_containers(tmp_path):
    make_zip(tmp_path / "0.zip", {"a.jpg": picture("a")})
    make_zip(tmp_path / "1.zip", {"b.jpg": picture("b")})
    make_tar(tmp_path / "2.tar", {"c.jpg": picture("c")})
    make_folder(tmp_path, {"readme.txt": b""})
    for url, ids in ((tmp_path, "abc"), (tmp_path / "*.zip", "ab"), (tmp_path / "*.*[pr]", "abc")):
        refs, _ = listed(url)
        assert "".join(ref.image_id[0] for ref in refs) == ids
        assert {ref.source for ref in refs} == {str(url)}
        assert fetch(refs) == [picture(name) for name in ids]


def test_flickr8k_is_read_in_place():
    root = os.environ.get("CAPTIONBEAM_DATA")
    if not root:
        pytest.skip("CAPTIONBEAM_DATA does not name the folder of real data")
    path = Path(root).resolve() / "flickr8k/val.zip"
    (spec,) = parse_sources([str(path)])
    refs = [ref for ref in list_images(spec) if isinstance(ref, ImageRef)]
    assert len(refs) == 300
    assert refs[0].image_id == "val/1022454332_6af2c1449a.jpg"
    with zipfile.ZipFile(path) as archive:
        assert fetch(refs) == [archive.read(ref.image_id) for ref in refs]


CAFE, CAT = "café.jpg", "猫.jpg"
TIMES = struct.pack("<HHBI", 0x5455, 5, 1, 0)  # another extra field, before the one that is looked for
RAW = b"\x94L.jpg"  # the cat in Shift-JIS


def names(path):
    return [ref.image_id for ref in listed(path)[0]]


@pytest.mark.parametrize(
    ("raw", "extra", "flags", "image_id"),
    [
        (CAFE.encode(), b"", 0x800, CAFE),
        (RAW, TIMES + unicode_path(RAW, CAT.encode()), 0, CAT),
        (RAW, unicode_path(b"another.jpg", CAT.encode()), 0, "öL.jpg"),
        (RAW, unicode_path(RAW, CAT.encode(), version=2), 0, "öL.jpg"),
    ],
)
def test_a_members_name_is_what_was_meant(tmp_path, raw, extra, flags, image_id):
    path = make_raw_zip(tmp_path / "x.zip", [(raw, extra, picture("1"))], flags)
    assert names(path) == [image_id]
    refs, _ = listed(path)
    assert fetch(refs) == [picture("1")]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=20))
def test_utf8_without_its_flag_is_utf8(tmp_path_factory, stem):
    folder = tmp_path_factory.mktemp("zips")
    path = make_raw_zip(folder / "x.zip", [(f"d/x{stem}.jpg".encode(), b"", picture("1"))])
    assert [ref.image_id for ref in listed(path)[0]] == [f"d/x{stem}.jpg"]


@pytest.mark.parametrize("field", [struct.pack("<HH", 0x7075, 2) + b"\1\0", unicode_path(RAW, b"\xff")])
@pytest.mark.filterwarnings("error")
def test_a_broken_unicode_path_leaves_its_member_the_name_in_the_header(tmp_path, field):
    members = [(RAW, TIMES + field, picture("1")), (b"up.jpg", b"", picture("2"))]
    path = make_raw_zip(tmp_path / "x.zip", members)
    assert names(path) == ["öL.jpg", "up.jpg"]
    assert fetch(listed(path)[0]) == [picture("1"), picture("2")]


def test_zipping_again_changes_no_version(tmp_path):
    stored = make_zip(tmp_path / "x.zip", PICTURES)
    deflated = make_zip(tmp_path / "y.zip", dict(reversed(PICTURES.items())), zipfile.ZIP_DEFLATED)
    versions = [{ref.image_id: ref.version for ref in listed(path)[0]} for path in (stored, deflated)]
    assert versions[0] == versions[1]


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_a_compression_that_is_not_read_is_listed_and_fails_alone(tmp_path, method, name):
    path = make_zip(tmp_path / "x.zip", {"a.jpg": picture("a")})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.jpg", picture("b"), method)
    first, second = fetch(listed(path)[0])
    assert first == picture("a")
    assert (second.code, name in second.message) == ("unsupported", True)


def test_a_zip_with_a_damaged_directory_is_refused_when_listed(tmp_path):
    path = make_zip(tmp_path / "x.zip", PICTURES)
    raw = path.read_bytes()
    path.write_bytes(
        raw[: raw.index(b"PK\1\2")] + raw[raw.index(b"PK\1\2") :].replace(b"PK\1\2", b"PK\1\3", 1)
    )
    with pytest.raises(SourceError, match="is not a readable zip"):
        listed(path)


def test_of_a_big_zip_only_the_directory_and_the_asked_members_are_read():
    contents = {f"{i:03}.jpg": os.urandom(100_000) for i in range(200)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    with counted({"big.zip": buffer.getvalue()}) as reads:
        refs, _ = listed("counted://big.zip")
        assert len(refs) == 200
        assert reads["bytes"] < 50_000
        reads.clear()
        assert fetch([refs[7], refs[150]]) == [contents["007.jpg"], contents["150.jpg"]]
        assert (reads["reads"], reads["bytes"] < 2 * 100_000 + 1000) == (2, True)
        reads.clear()
        assert fetch(refs) == list(contents.values())
        assert (reads["reads"], reads["bytes"] < 20_100_000) == (3, True), "neighbours are read together"


def test_a_damaged_header_inside_a_tar_is_no_end(tmp_path):
    path = make_tar(tmp_path / "x.tar", PICTURES)
    raw = bytearray(path.read_bytes())
    raw[1024 + 10] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"has a damaged header at byte 1024; expected a whole tar"):
        listed(path)
