"""Parquet with image bytes, lists of URIs, COCO annotations."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import SourceOptions
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.records import ImageRef
from tests.builders.data.sources import listed, make_folder, make_parquet, picture

NAMES = [f"n{i}" for i in range(10)]
PICTURES = [picture(name) for name in NAMES]


def test_a_row_with_bytes_is_an_image_named_by_the_id_column(tmp_path):
    path = make_parquet(tmp_path / "x.parquet", {"image_id": NAMES, "jpg": PICTURES, "label": [1] * 10})
    os.utime(path, ns=(5, 9))
    refs, _ = listed(path)
    size, groups = path.stat().st_size, pq.read_metadata(path)
    each = [groups.row_group(n).total_byte_size // groups.row_group(n).num_rows for n in range(3)]
    place = {"uri": str(path), "source": str(path), "kind": "parquet", "column": "jpg"}
    assert refs == [
        ImageRef(name, version=f"{size}-9:{i}", offset=i // 4, length=i % 4, size=each[i // 4], **place)
        for i, name in enumerate(NAMES)
    ]
    assert fetch(refs) == PICTURES


@pytest.mark.parametrize("options", [{}, {"bytes_column": "image.bytes"}])
def test_hugging_face_structs_are_understood(tmp_path, options):
    column = [{"bytes": data, "path": f"{name}.jpg"} for name, data in zip(NAMES, PICTURES, strict=True)]
    path = make_parquet(tmp_path / "x.parquet", {"image": column, "other": [b"x"] * 10})
    refs, _ = listed(path, **options)
    assert {ref.column for ref in refs} == {"image.bytes"}
    assert fetch(refs) == PICTURES


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary(500)])
def test_every_arrow_type_of_bytes_is_read(tmp_path, kind):
    path = make_parquet(tmp_path / "x.parquet", {"image": pa.array(PICTURES, kind)})
    assert fetch(listed(path)[0]) == PICTURES


def test_a_row_without_bytes_fails_alone(tmp_path):
    path = make_parquet(tmp_path / "x.parquet", {"image": [PICTURES[0], None, b"", PICTURES[3]]})
    first, second, third, fourth = fetch(listed(path)[0])
    assert (first, fourth) == (PICTURES[0], PICTURES[3])
    assert [second.code, third.code] == ["empty", "empty"]


def test_a_folder_of_parquet_files_is_one_source(tmp_path):
    (tmp_path / "data").mkdir()
    make_parquet(tmp_path / "data/0.parquet", {"image": PICTURES[:2]})
    make_parquet(tmp_path / "data/1.parquet", {"image": PICTURES[2:4]})
    refs, _ = listed(tmp_path)
    assert [ref.image_id for ref in refs] == [
        "data/0.parquet#0", "data/0.parquet#1", "data/1.parquet#0", "data/1.parquet#1",
    ]  # fmt: skip
    assert {ref.source for ref in refs} == {str(tmp_path)}
    assert fetch(refs) == PICTURES[:4]


def test_every_parquet_file_of_a_folder_has_its_own_columns(tmp_path):
    make_parquet(tmp_path / "0.parquet", {"image": PICTURES[:1], "id": ["a"]})
    make_parquet(tmp_path / "1.parquet", {"price": [3], "key": ["b"], "jpg": PICTURES[1:2]})
    make_parquet(tmp_path / "2.parquet", {"image": [{"bytes": PICTURES[2], "path": "c.jpg"}]})
    refs, _ = listed(tmp_path)
    assert [(ref.image_id, ref.column) for ref in refs] == [
        ("a", "image"), ("b", "jpg"), ("2.parquet#0", "image.bytes"),
    ]  # fmt: skip
    assert fetch(refs) == PICTURES[:3]
    for keep in ("price", "all"):
        refs, _ = listed(tmp_path, keep_columns=(keep,))
        assert ["price" in ref.columns for ref in refs] == [False, True, False]


def test_parquet_lists_of_one_folder_may_name_their_columns_differently(tmp_path):
    make_parquet(tmp_path / "0.parquet", {"uri": ["a.jpg"]})
    make_parquet(tmp_path / "1.parquet", {"Image URL": ["https://host/b.jpg"], "id": ["b"]})
    refs, _ = listed(tmp_path)
    assert [(ref.image_id, ref.uri) for ref in refs] == [
        ("a.jpg", f"{tmp_path}/a.jpg"), ("b.jpg", "https://host/b.jpg"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "options", "expected"),
    [
        ({"image": PICTURES[:1]}, {"uri": ["b.jpg"]}, {}, "'uri'; expected 'image'"),
        ({"uri": ["a.jpg"]}, {"image": PICTURES[:1]}, {}, "'image'; expected 'uri'"),
        ({"uri": ["a.jpg"], "n": [1]}, {"uri": ["b.jpg"]}, {"id_column": "n"}, "'uri'; expected 'n'"),
        (
            {"mine": PICTURES[:1]},
            {"image": PICTURES[:1]},
            {"bytes_column": "mine"},
            "'image'; expected 'mine'",
        ),
    ],
)
def test_a_parquet_file_of_a_folder_that_lacks_a_column_is_named(tmp_path, first, second, options, expected):
    make_parquet(tmp_path / "0.parquet", first)
    path = make_parquet(tmp_path / "1.parquet", second)
    with pytest.raises(SourceError) as error:
        listed(tmp_path, **options)
    assert str(error.value) == (
        f"source '{path}' has the columns {expected}, as in the first file of '{tmp_path}'"
    )


def test_parquet_without_a_usable_column_says_which_there_are(tmp_path):
    path = make_parquet(tmp_path / "x.parquet", {"label": [1], "score": [0.5]})
    with pytest.raises(SourceError) as caught:
        parse_sources([str(path)])
    assert str(caught.value) == (
        f"source '{path}' has the columns 'label', 'score'; expected 'image' (bytes) or 'uri' (text), or "
        "--uri-column NAME"
    )


LISTS = {
    "x.txt": "http://h/a/1.jpg\n\n  two.jpg \n/abs/3.jpg\n",
    "x.csv": "\ufeffuri,note\nhttp://h/a/1.jpg,x\ntwo.jpg,\n/abs/3.jpg,z\n",
    "x.tsv": "note\turl\nx\thttp://h/a/1.jpg\n\ttwo.jpg\nz\t/abs/3.jpg\n",
    "x.jsonl": '{"path": "http://h/a/1.jpg"}\n{"path": "two.jpg"}\n\n{"path": "/abs/3.jpg"}\n',
    "x.txt.gz": gzip.compress(b"http://h/a/1.jpg\ntwo.jpg\n/abs/3.jpg\n", mtime=0),
}


@pytest.mark.parametrize(("name", "content"), LISTS.items(), ids=LISTS)
def test_lists_of_every_kind_give_the_same_images(tmp_path, name, content):
    make_folder(tmp_path, {name: content if isinstance(content, bytes) else content.encode()})
    refs, _ = listed(tmp_path / name)
    source = f"{tmp_path}/{name}"
    assert refs == [
        ImageRef("a/1.jpg", "http://h/a/1.jpg", source, None, offset=1),
        ImageRef("two.jpg", f"{tmp_path}/two.jpg", source, None, offset=2),
        ImageRef("abs/3.jpg", "/abs/3.jpg", source, None, offset=3),
    ]


def test_parquet_of_uris_is_a_list(tmp_path):
    path = make_parquet(
        tmp_path / "x.parquet", {"image_url": ["http://h/1.jpg", "gs://b/c/2.jpg"], "id": [1, 2]}
    )
    refs, _ = listed(path)
    assert [(ref.image_id, ref.uri, ref.kind, ref.version) for ref in refs] == [
        ("1", "http://h/1.jpg", "file", None),
        ("2", "gs://b/c/2.jpg", "file", None),
    ]


def test_relative_paths_start_from_the_image_root(tmp_path):
    make_folder(tmp_path, {"lists/x.txt": b"a.jpg\n", "images/a.jpg": b"123"})
    (ref,) = listed(tmp_path / "lists/x.txt", image_root=f"{tmp_path}/images/")[0]
    assert (ref.image_id, ref.uri, ref.length) == ("a.jpg", f"{tmp_path}/images/a.jpg", 3)
    assert ref.version == f"3-{os.stat(ref.uri).st_mtime_ns}"


def test_a_row_without_a_uri_fails_alone(tmp_path):
    make_folder(tmp_path, {"x.csv": b"id,url\n1,\n,\n", "y.jsonl": b'{"url": "a.jpg"}\n{"other": 1}\n'})
    refs = [*listed(tmp_path / "x.csv")[0], listed(tmp_path / "y.jsonl")[0][1]]
    assert [ref.image_id for ref in refs] == ["1", "x.csv#1", "y.jsonl#1"]
    assert [error.code for error in fetch(refs)] == ["not_found"] * 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"\n\n", "is an empty list; expected one URI or more"),
        ("x.csv", b"a,b\n1,2\n", r"has the columns 'a', 'b' \(separated by ','\); expected one of uri, url"),
        ("x.jsonl", b"{broken\n", "line 1 is not JSON"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_at_once(tmp_path, name, content, message):
    make_folder(tmp_path, {name: content})
    with pytest.raises(SourceError, match=message):
        parse_sources([f"{tmp_path}/{name}"])


def coco(images: list) -> bytes:
    return json.dumps({"images": images, "annotations": []}).encode()


def test_coco_annotations_name_images_by_their_id_below_the_root(tmp_path):
    entries = [{"id": 9, "file_name": "a.jpg"}, {"id": 11, "file_name": "b.jpg"}]
    make_folder(tmp_path, {"ann/c.json": coco(entries), "img/a.jpg": b"123"})
    refs, _ = listed(tmp_path / "ann/c.json", image_root=str(tmp_path / "img"))
    assert [(ref.image_id, ref.uri, ref.length) for ref in refs] == [
        ("9", f"{tmp_path}/img/a.jpg", 3),
        ("11", f"{tmp_path}/img/b.jpg", -1),
    ]
    first, second = fetch(refs)
    assert (first, second.code) == (b"123", "not_found")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "lists no images; expected a COCO annotation file"),
        (coco([{"id": 1}]), r"has the image \{'id': 1\}; expected 'id' and 'file_name' in it"),
        (coco([{"id": 1, "file_name": "a.jpg"}]), "expected the folder they lie in as image root"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused_at_once(tmp_path, content, message):
    make_folder(tmp_path, {"c.json": content})
    with pytest.raises(SourceError, match=message):
        parse_sources([f"{tmp_path}/c.json"])


def test_an_id_column_names_the_images(tmp_path):
    make_folder(tmp_path, {"x.csv": b"image_id,key,url\n7,k7,http://h/1.jpg\n8,k8,http://h/2.jpg\n"})
    assert [ref.image_id for ref in listed(tmp_path / "x.csv")[0]] == ["7", "8"]
    assert [ref.image_id for ref in listed(tmp_path / "x.csv", id_column="key")[0]] == ["k7", "k8"]


def test_each_row_has_an_id_in_a_column_that_is_named(tmp_path):
    """Where the column was found by its name, a row without one gets its path."""
    rows = {"key": ["k7", None, "k9"], "url": [f"http://h/{number}.jpg" for number in (1, 2, 3)]}
    make_folder(tmp_path, {"x.csv": b"key,url\nk7,http://h/1.jpg\n ,http://h/2.jpg\nk9,http://h/3.jpg\n"})
    make_parquet(tmp_path / "x.parquet", rows)
    make_parquet(tmp_path / "bytes.parquet", {"key": rows["key"], "image": PICTURES[:3]})
    for name, path in [("x.csv", "2.jpg"), ("x.parquet", "2.jpg"), ("bytes.parquet", "bytes.parquet#1")]:
        assert [ref.image_id for ref in listed(tmp_path / name)[0]] == ["k7", path, "k9"]
        with pytest.raises(
            SourceError, match="row 2 has no id in the column 'key'; expected one in each row"
        ):
            listed(tmp_path / name, id_column="key")


def test_a_named_column_that_is_not_there_is_refused(tmp_path):
    make_folder(tmp_path, {"x.csv": b"url,id\na.jpg,1\n"})
    make_parquet(tmp_path / "x.parquet", {"image": PICTURES, "id": NAMES})
    for name in ("x.csv", "x.parquet"):
        for options in ({"uri_column": "link"}, {"id_column": "key"}):
            with pytest.raises(SourceError, match=f"expected '{next(iter(options.values()))}'"):
                parse_sources([f"{tmp_path}/{name}"], SourceOptions(**options))
    with pytest.raises(SourceError, match="expected 'photo'"):
        parse_sources([f"{tmp_path}/x.parquet"], SourceOptions(bytes_column="photo"))


@pytest.mark.parametrize(
    "header", ["URL", "Image_Url", "IMAGE PATH", "image-url", "imageUrl", " Uri ", '"File Name"', "File-Name"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_headers_are_found_as_people_write_them(tmp_path, header, separator):
    content = (
        separator.join(["No", header, "Key"]) + "\n" + separator.join(["1", "https://h/a.jpg", "k1"]) + "\n"
    )
    make_folder(tmp_path, {"x.csv": content.encode()})
    assert [(ref.image_id, ref.uri) for ref in listed(tmp_path / "x.csv")[0]] == [("k1", "https://h/a.jpg")]
    name = header.strip('"')
    make_folder(tmp_path, {"x.jsonl": json.dumps({"No": 1, name: "https://h/a.jpg", "Key": "k1"}).encode()})
    assert [(ref.image_id, ref.uri) for ref in listed(tmp_path / "x.jsonl")[0]] == [("k1", "https://h/a.jpg")]
    path = make_parquet(tmp_path / "x.parquet", {"No": [1], name: ["https://h/a.jpg"], "Key": ["k1"]})
    assert [(ref.image_id, ref.uri) for ref in listed(path)[0]] == [("k1", "https://h/a.jpg")]


@pytest.mark.parametrize(
    ("header", "row", "options"),
    [
        ("IMAGE PATH", "a.jpg", {}),  # a single column: no separator
        ("Title, or none;IMAGE PATH", "x;a.jpg", {}),
        ("url,a;b;c", "a.jpg,1", {}),
        ('"a;b;c",url', "1,a.jpg", {}),  # separators inside quotes do not count
        ("url,URL,Url", "a.jpg,b.jpg,c.jpg", {}),  # the exact name first
        ("url,URL,Url", "b.jpg,a.jpg,c.jpg", {"uri_column": "URL"}),
        ("url,My Link", "b.jpg,a.jpg", {"uri_column": "my_link"}),
        ("title,Foto,note", "x.y,a.jpg,", {}),  # the only one that holds images
        ("page,Foto", "https://h/1,a.jpg", {}),
    ],
)  # fmt: skip
def test_the_column_of_uris_is_found_by_its_name_or_its_values(tmp_path, header, row, options):
    make_folder(tmp_path, {"x.csv": f"{header}\n{row}\n".encode()})
    assert [ref.uri for ref in listed(tmp_path / "x.csv", **options)[0]] == [f"{tmp_path}/a.jpg"]


def test_a_parquet_column_is_found_by_its_values_if_only_one_holds_images(tmp_path):
    values = {"note": ["a.b", "c"], "n": [1, 2], "Foto": ["https://h/1.JPG?w=2", None]}
    path = make_parquet(tmp_path / "x.parquet", values)
    assert [ref.uri for ref in listed(path)[0]] == ["https://h/1.JPG?w=2", ""]
    path = make_parquet(tmp_path / "x.parquet", {**values, "Thumb": ["t.jpg", "u.jpg"]})
    with pytest.raises(SourceError) as caught:
        parse_sources([str(path)])
    assert str(caught.value) == (
        f"source '{path}' has the columns 'note', 'n', 'Foto', 'Thumb'; expected --uri-column NAME, as 'Foto' and "
        "'Thumb' all hold images"
    )


def test_a_column_of_bytes_and_its_ids_are_found_as_people_write_them(tmp_path):
    path = make_parquet(tmp_path / "x.parquet", {"Image ID": NAMES, "IMAGE": PICTURES})
    refs, _ = listed(path)
    assert ([ref.image_id for ref in refs], refs[0].column) == (NAMES, "IMAGE")
    assert fetch(refs) == PICTURES


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b\n1.jpg,2.jpg\n", {}, r"has the columns 'a', 'b' \(separated by ','\); expected --uri-column NAME, as"),
        ("a,b\n1.jpg,2\n3,4\n", {}, "expected one of uri, url, .* for URIs, or --uri-column NAME"),
        ("https://h/1.jpg;x\nhttps://h/2.jpg;y\n", {}, "begins with .* 'x' .*; expected a line of column names"),
        ("URL,Url\n1.jpg,2.jpg\n", {"uri_column": "url"}, "has the columns 'URL', 'Url' .*; expected 'url'"),
        ("URL,n\n1.jpg,2\n", {"id_column": "key"}, "expected 'key' for ids"),
    ],
)  # fmt: skip
def test_a_list_whose_columns_are_unclear_is_refused(tmp_path, content, options, message):
    make_folder(tmp_path, {"x.csv": content.encode()})
    with pytest.raises(SourceError, match=message):
        parse_sources([f"{tmp_path}/x.csv"], SourceOptions(**options))
