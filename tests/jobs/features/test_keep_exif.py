"""``--keep-exif`` and ``--keep-gps``: what image files say of themselves stands beside their rows."""

from __future__ import annotations

import datetime
import shutil

import duckdb
import pyarrow as pa
import pytest
from PIL import Image

from captionbeam.jobs.cli import main
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.running.commands import captionbeam

ENCODER = ["--encoder", "efficientnet_lite0", "--image-size", "64", "--pooled"]
ABOUT = ["width", "height", "format", "taken", "taken_offset", "orientation", "camera"]
TAKEN = datetime.datetime(2024, 2, 29, 12, 34, 56)
PHOTO = (60, 32, "JPEG", TAKEN, "+02:00", 6, "Canon EOS 5D")
PLACE = (48.5, -2.25)
PICTURE = (61, 32, "PNG", None, None, None, None)
NOTHING = (None,) * 7


def block() -> bytes:
    exif = Image.Exif()
    exif.update({0x010F: "Canon", 0x0110: "Canon EOS 5D", 0x0112: 6})
    exif.get_ifd(0x8769).update({0x9003: "2024:02:29 12:34:56", 0x9011: "+02:00"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 30.0, 0.0), 3: "W", 4: (2.0, 15.0, 0.0)})
    return exif.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A photograph, its copy, a picture without EXIF, a photograph that ends too early, and a text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = encoded(drawn(60, 32), "JPEG", exif=block())
    (folder / "a.jpg").write_bytes(photo)
    (folder / "copy.jpg").write_bytes(photo)
    (folder / "half.jpg").write_bytes(photo[:-20])
    (folder / "picture.png").write_bytes(encoded(drawn(61, 32), "PNG"))
    (folder / "text.jpg").write_bytes(b"no picture")
    return folder


def encode(source, store, *options):
    captionbeam("encode", source, "--output", store, *ENCODER, "--warn-failures", 0.9, *options)


def rows(store, names=ABOUT):
    """The columns of all rows and failures by image id."""
    opened = Store.open(str(store))
    tables = [pa.Table.from_batches([one]) for one in opened.scan(["image_id", *names])]
    found = [row for table in (*tables, opened.failures()) for row in table.to_pylist()]
    return {row["image_id"]: tuple(row[name] for name in names) for row in found}


@pytest.mark.parametrize("file_format", ["parquet", "hdf5"])
def test_rows_and_failures_have_what_their_files_say(folder, tmp_path, file_format):
    encode(folder, tmp_path / "f", "--keep-exif", "--format", file_format)
    assert rows(tmp_path / "f") == {
        "a.jpg": PHOTO, "copy.jpg": PHOTO, "picture.png": PICTURE, "half.jpg": PHOTO, "text.jpg": NOTHING,
    }  # fmt: skip
    assert [(one.name, str(one.type)) for one in Store.open(str(tmp_path / "f")).kept] == [
        ("width", "int32"), ("height", "int32"), ("format", "string"), ("taken", "timestamp[ms]"),
        ("taken_offset", "string"), ("orientation", "int8"), ("camera", "string"),
    ]  # fmt: skip


def test_a_place_only_with_keep_gps(folder, tmp_path):
    encode(folder, tmp_path / "f", "--keep-gps")
    found = rows(tmp_path / "f", [*ABOUT, "latitude", "longitude"])
    assert found["a.jpg"] == (*PHOTO, *PLACE)
    assert found["picture.png"] == (*PICTURE, None, None)
    query = f"select image_id, exif.width, exif.latitude from '{tmp_path}/f/columns/*.parquet' where exif.latitude > 48"
    assert sorted(duckdb.sql(query).fetchall()) == [
        ("a.jpg", 60, 48.5), ("copy.jpg", 60, 48.5), ("half.jpg", 60, 48.5),
    ]  # fmt: skip


def test_columns_of_the_input_with_these_names_are_shown_as_the_inputs(folder, tmp_path):
    (folder / "list.csv").write_text("path,width,shop\na.jpg,1000,x\npicture.png,,y\n")
    encode(folder / "list.csv", tmp_path / "f", "--keep-columns", "all", "--keep-exif")
    found = rows(tmp_path / "f", ["input_width", "shop", "width"])
    assert sorted(found.values(), key=str) == [(1000, "x", 60), (None, "y", 61)]


def test_rows_from_before_the_option_have_nulls_until_their_images_change(folder, tmp_path, capsys):
    encode(folder, tmp_path / "f")
    (folder / "new.png").write_bytes(encoded(drawn(70, 40), "PNG"))
    capsys.readouterr()
    command = ["encode", folder, "--output", tmp_path / "f", "--keep-exif", *ENCODER, "--warn-failures", 0.9]
    assert main([str(word) for word in command]) == 0
    said = f"note: 3 rows of {tmp_path}/f made without --keep-exif: null in its columns until the image is read again"
    assert said in capsys.readouterr().out
    assert rows(tmp_path / "f") == {
        **dict.fromkeys(("a.jpg", "copy.jpg", "half.jpg", "picture.png", "text.jpg"), NOTHING),
        "new.png": (70, 40, "PNG", None, None, None, None),
    }


def test_a_refresh_keeps_them_and_rows_copied_by_content_have_them(folder, tmp_path):
    store = tmp_path / "f"
    encode(folder, store, "--keep-exif")
    (folder / "picture.png").touch()
    (folder / "text.jpg").write_bytes(encoded(drawn(70, 40), "PNG"))
    captionbeam("refresh", store, "--publish-anyway", "--warn-failures", 0.9)
    assert rows(store) == {
        "a.jpg": PHOTO, "copy.jpg": PHOTO, "picture.png": PICTURE, "half.jpg": PHOTO,
        "text.jpg": (70, 40, "PNG", None, None, None, None),
    }  # fmt: skip


def test_changed_columns_of_the_list_leave_them_as_they_are(folder, tmp_path):
    """Also columns that are kept only later. No image is fetched."""
    store, lines = tmp_path / "f", folder / "list.csv"
    lines.write_text("id,path,price\na,a.jpg,1\nb,picture.png,2\n")
    encode(lines, store, "--keep-exif")
    for text in (
        "id,path,price\na,a.jpg,1\nb,picture.png,2\n",
        "id,path,price\na,a.jpg,1\nb,picture.png,3.5\n",
    ):
        lines.write_text(text)
        encode(lines, store, "--keep-exif", "--keep-columns", "price")
    assert rows(store, [*ABOUT, "price"]) == {"a": (*PHOTO, 1.0), "b": (*PICTURE, 3.5)}
    names = [one.rpartition("/")[2] for one in Store.open(str(store)).snapshot.manifests]
    assert len(names) == 3
    assert len(list((store / "data").iterdir())) == 1


def test_they_stay_beside_compacted_rows_and_go_with_purged_images(folder, tmp_path):
    store, ids = tmp_path / "f", tmp_path / "ids.txt"
    encode(folder, store, "--keep-gps", "--shard-size", 1)
    captionbeam("store", "compact", store)
    expected = {
        "a.jpg": PHOTO, "copy.jpg": PHOTO, "picture.png": PICTURE, "half.jpg": PHOTO, "text.jpg": NOTHING,
    }  # fmt: skip
    assert rows(store) == expected
    ids.write_text("copy.jpg\nhalf.jpg\n")
    captionbeam("store", "purge", store, "--ids", ids)
    assert rows(store) == {
        name: row for name, row in expected.items() if name not in ("copy.jpg", "half.jpg")
    }
    captionbeam("store", "verify", store)
    found = duckdb.sql(
        f"select image_id from '{store}/columns/*.parquet' where exif.latitude > 48"
    ).fetchall()
    assert set(found) == {("a.jpg",)}


def test_the_option_changes_no_fingerprint(folder, tmp_path):
    encode(folder, tmp_path / "f", "--keep-exif")
    encode(folder, tmp_path / "g")
    one, other = (Store.open(str(tmp_path / name)) for name in "fg")
    assert one.fingerprint == other.fingerprint
    assert (len(one.kept), len(other.kept)) == (7, 0)
    assert not (tmp_path / "g" / "columns").exists()


def test_failures_that_are_retried_have_them(folder, tmp_path):
    encode(folder, tmp_path / "f", "--keep-exif")
    shutil.copy(folder / "a.jpg", folder / "half.jpg")
    captionbeam("store", "retry-failures", tmp_path / "f", "--all", "--warn-failures", 0.9)
    assert rows(tmp_path / "f")["half.jpg"] == PHOTO
    assert rows(tmp_path / "f")["a.jpg"] == PHOTO


def test_rows_that_are_compacted_or_made_from_these_features_have_them(folder, tmp_path):
    encode(folder, tmp_path / "f", "--keep-gps", "--shard-size", 2)
    names = [*ABOUT, "latitude", "longitude"]
    before = rows(tmp_path / "f", names)
    captionbeam("store", "compact", tmp_path / "f")
    assert rows(tmp_path / "f", names) == before
    assert verify(str(tmp_path / "f")).problems == []
    shrink = ["encode", "--features", tmp_path / "f", "--dtype", "int8", "--output"]
    captionbeam(*shrink, tmp_path / "small")
    done = ("a.jpg", "copy.jpg", "picture.png")
    assert rows(tmp_path / "small") == {name: before[name][:-2] for name in done}
    assert sorted(Store.open(str(tmp_path / "small")).kept.names) == sorted(ABOUT)
    captionbeam(*shrink, tmp_path / "placed", "--keep-gps")
    assert rows(tmp_path / "placed", names) == {name: before[name] for name in done}
