"""Folders, globs, single files: what is an image, what it is called, which version it has."""

import errno
import os

import fsspec
import pytest

from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.listing import list_images, split_source
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import source_name
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from tests.builders.data.sources import Web, listed, make_folder, make_zip


def test_a_reference_says_where_the_file_is_how_long_and_which_version(tmp_path):
    path = make_folder(tmp_path, {"in/a.jpg": b"12"}) / "in/a.jpg"
    os.utime(path, ns=(5, 7_000_000_001))
    assert listed(tmp_path)[0] == [
        ImageRef("in/a.jpg", str(path), str(tmp_path), "2-7000000001", kind="file", length=2)
    ]


def test_the_parts_of_a_folder_hold_together_what_it_holds(tmp_path):
    make_folder(tmp_path, {"a.jpg": b"1", "x/b.jpg": b"1", "x/y/c.jpg": b"1", "z/d.jpg": b"1"})
    parts = list(split_source(*parse_sources([str(tmp_path)])))
    assert sorted((part.kind, part.url) for part in parts) == [
        ("files", str(tmp_path)),
        ("folder", f"{tmp_path}/x"),
        ("folder", f"{tmp_path}/z"),
    ]
    assert {part.name for part in parts} == {str(tmp_path)}
    assert sorted(ref.image_id for part in parts for ref in list_images(part)) == [
        "a.jpg", "x/b.jpg", "x/y/c.jpg", "z/d.jpg",
    ]  # fmt: skip


def test_pictures_of_every_format_are_listed_by_their_names(tmp_path):
    names = [f"a{end}" for end in (".JPG", ".avif", ".heic", ".hif", ".j2k", ".jp2", ".jpx", ".jxl")]
    folder = make_folder(tmp_path / "in", dict.fromkeys([*names, "a.txt", "a.mov"], b"1"))
    archive = make_zip(tmp_path / "x.zip", dict.fromkeys([*names, "a.txt", "a.mov"], b"1"))
    for source in (folder, archive):
        assert sorted(ref.image_id for ref in listed(source)[0]) == names


def test_the_source_is_named_by_its_absolute_path_without_a_slash(tmp_path, monkeypatch):
    make_folder(tmp_path, {"photos/a.jpg": b"1"})
    monkeypatch.chdir(tmp_path)
    for spelling in ("photos", "photos/", "./photos//", f"file://{tmp_path}/photos"):
        assert [spec.name for spec in parse_sources([spelling])] == [f"{tmp_path}/photos"]


def test_a_name_that_is_not_utf8_is_written_so_that_it_can_be_read_back(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)
    with open(raw + b"/\xff.jpg", "wb") as stream:
        stream.write(b"1")
    (ref,) = listed(tmp_path)[0]
    assert ref.image_id == r"caf\xe9/\xff.jpg"
    ref.uri.encode("utf-8")


def test_a_folder_that_may_not_be_read_is_an_error_and_no_shorter_listing(tmp_path, monkeypatch):
    make_folder(tmp_path, {"a.jpg": b"1", "locked/b.jpg": b"1"})
    whole = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "not yours", path)
        return whole(path)

    monkeypatch.setattr(access.os, "scandir", guarded)
    with pytest.raises(SourceError, match=r"cannot be read \(denied\).*not yours"):
        listed(tmp_path)


def test_pages_of_links_are_folders():
    with Web({"pics/a.jpg": b"1", "pics/in/b.jpg": b"2", "other/c.jpg": b"3"}, ranges=True) as web:
        refs, _ = listed(f"{web.url}/pics/")
    assert sorted((ref.image_id, ref.uri) for ref in refs) == [
        ("a.jpg", f"{web.url}/pics/a.jpg"),
        ("in/b.jpg", f"{web.url}/pics/in/b.jpg"),
    ]


GLOBS = {
    "*.jpg": ["a.jpg", "b.jpg"],
    "[!b].jpg": ["a.jpg"],
    "**/*.jpg": ["a.jpg", "b.jpg", "x/1/c.jpg", "x/2/d.jpg", "y/1/e.jpg"],
    "x/*/*.jpg": ["1/c.jpg", "2/d.jpg"],
    "*/1/*": ["x/1/c.jpg", "y/1/e.jpg"],
    "?/**": ["x/1/c.jpg", "x/2/d.jpg", "y/1/e.jpg"],
    "x*": ["1/c.jpg", "2/d.jpg"],
}


@pytest.mark.parametrize("scheme", ["file", "memory"])
@pytest.mark.parametrize(("pattern", "ids"), GLOBS.items())
def test_a_glob_lists_what_it_matches_by_the_path_from_where_it_begins(tmp_path, scheme, pattern, ids):
    names = ["a.jpg", "b.jpg", "x/1/c.jpg", "x/2/d.jpg", "y/1/e.jpg", "y/notes.md"]
    root = tmp_path if scheme == "file" else f"memory:/{tmp_path}"
    if scheme == "file":
        make_folder(tmp_path, dict.fromkeys(names, b"1"))
    else:
        fsspec.filesystem("memory").pipe({f"{tmp_path}/{name}": b"1" for name in names})
    if pattern == "x*":  # folders only: each is listed whole, ids begin where the pattern begins
        ids = [f"x/{name}" for name in ids]
    refs, _ = listed(f"{root}/{pattern}")
    assert sorted(ref.image_id for ref in refs) == ids
    assert {ref.source for ref in refs} == {f"{root}/{pattern}"}


def test_folders_that_are_there_by_that_name_are_no_patterns(tmp_path):
    odd = tmp_path / "we [1] *? #2 50%"
    make_folder(odd, {"a.jpg": b"1", "b#1.jpg": b"22", "in [x]/c.jpg": b"333", "d/[e].jpg": b"4444"})
    for pattern, ids in {
        "*.jpg": ["a.jpg", "b#1.jpg"],
        "[ab]*.jpg": ["a.jpg", "b#1.jpg"],
        "in [x]/*": ["c.jpg"],
        "in*/c.jpg": ["in [x]/c.jpg"],
        "**/*.jpg": ["a.jpg", "b#1.jpg", "d/[e].jpg", "in [x]/c.jpg"],
        "d/[e].jpg": ["[e].jpg"],
    }.items():
        refs, _ = listed(odd / pattern)
        assert sorted(ref.image_id for ref in refs) == ids
        assert {ref.source for ref in refs} == {f"{odd}/{pattern}"}
        assert all(fetch([ref])[0] for ref in refs)


def test_a_glob_looks_only_into_folders_that_can_match(monkeypatch):
    filesystem, _ = files.split("memory://")  # the one that listings use
    filesystem.pipe({"/g/2024/a.jpg": b"1", "/g/2023/b.jpg": b"1", "/g/2024/deep/er/c.jpg": b"1"})
    asked, whole = [], filesystem.ls
    monkeypatch.setattr(filesystem, "ls", lambda path, **kwargs: asked.append(path) or whole(path, **kwargs))
    assert [ref.image_id for ref in listed("memory://g/2024/*.jpg")[0]] == ["a.jpg"]
    assert set(asked) == {"/g/2024"}
    asked.clear()
    assert [ref.image_id for ref in listed("memory://g/*4/*.jpg")[0]] == ["2024/a.jpg"]
    assert set(asked) == {"/g", "/g/2024"}


def test_one_image_is_a_source(tmp_path):
    make_folder(tmp_path, {"one.jpg": b"123"})
    ((ref,), _) = listed(tmp_path / "one.jpg")
    assert (ref.image_id, ref.uri, ref.length) == ("one.jpg", f"{tmp_path}/one.jpg", 3)


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    make_folder(tmp_path, {"real/a.jpg": b"1"})
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/up").symlink_to(tmp_path)
    refs, _ = listed(tmp_path)
    assert sorted({ref.image_id for ref in refs if "up" not in ref.image_id}) == [
        "linked/a.jpg",
        "real/a.jpg",
    ]


def test_a_link_that_leads_nowhere_is_listed_so_that_its_failure_is_seen(tmp_path):
    make_folder(tmp_path, {"a.jpg": b"1"})
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    refs = {ref.image_id: ref for ref in listed(tmp_path)[0]}
    assert refs["gone.jpg"].version is None


def test_a_folder_that_fails_on_a_remote_filesystem_is_an_error_and_no_shorter_listing(monkeypatch):
    filesystem, _ = files.split("memory://")  # the one that listings use
    filesystem.pipe({"/part/a.jpg": b"1", "/part/sub/b.jpg": b"1"})
    whole = filesystem.ls

    def ls(path, detail=True, **kwargs):
        if path.endswith("/sub"):
            raise PermissionError("not yours")
        return whole(path, detail=detail, **kwargs)

    monkeypatch.setattr(filesystem, "ls", ls)
    with pytest.raises(SourceError, match=r"denied.*not yours"):
        listed("memory://part")


def test_folders_on_any_filesystem_are_listed_alike():
    fsspec.filesystem("memory").pipe({"/photos/a.jpg": b"12", "/photos/in/b.jpg": b"3", "/photos/c.txt": b""})
    refs, ignored = listed("memory://photos/")
    assert sorted((ref.image_id, ref.uri, ref.source, ref.length) for ref in refs) == [
        ("a.jpg", "memory:///photos/a.jpg", "memory://photos", 2),
        ("in/b.jpg", "memory:///photos/in/b.jpg", "memory://photos", 1),
    ]
    assert all(ref.version for ref in refs)
    assert ignored == ["memory:///photos/c.txt"]


@pytest.mark.parametrize(("name", "same"), [("gcs://b/x/", "gs://b/x"), ("s3a://b/x", "s3://b/x")])
def test_protocols_of_two_names_are_one(name, same):
    assert source_name(name) == source_name(same) == same
