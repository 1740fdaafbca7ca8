"""Lists of URIs: how rows are read, what ids are, and that no row is lost."""

import gzip
import json
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.features.array_ids import find_id_list, read_ids
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.fetch.urls import UrlParts, printable, split_url
from captionbeam.pipelines.maintenance.file_writers import TABLE_WRITERS
from captionbeam.pipelines.sources import lists
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import SourceError
from tests.builders.data.sources import listed, make_folder

SPACED = [" a.jpg ", "a.jpg", "\ta.jpg", "a.jpg\u00a0", "b\u2028c", "d\x85", "e\ne", '"f"', "g;h,i"]


@pytest.mark.parametrize(
    ("uri", "image_id"),
    [
        ("file:///d/a#1.jpg", "d/a#1.jpg"),
        ("s3://b/a#1.jpg", "a#1.jpg"),
        ("gs://b/a?1#2.jpg", "a?1#2.jpg"),
        ("https://h/a.jpg?x=1#part", "a.jpg?x=1"),
        ("https://h", "h"),
        ("/d/a#1.jpg", "d/a#1.jpg"),
    ],
)
def test_the_whole_path_of_a_uri_is_its_id(uri, image_id):
    assert lists.id_of(uri) == image_id


def test_a_quote_that_does_not_end_names_its_line(tmp_path):
    make_folder(tmp_path, {"x.tsv": b'path\tx\na.jpg\t"two\nlines"\n\nb.jpg\t"open\nc.jpg\t3\n'})
    with pytest.raises(
        SourceError, match=r"line 5 begins a row that cannot be read \(unexpected end of data\)"
    ):
        listed(tmp_path / "x.tsv")


def test_quoted_values_may_span_lines_and_hold_quotes(tmp_path):
    content = 'caption,path\r\n"two\r\nlines, ""quoted""",a.jpg\r\n5" wide,b.jpg\r\n\r\n,"in,c.jpg"\r\n'
    make_folder(tmp_path, {"x.csv": content.encode()})
    assert [ref.image_id for ref in listed(tmp_path / "x.csv")[0]] == ["a.jpg", "b.jpg", "in,c.jpg"]


@pytest.mark.parametrize(
    ("content", "swallowed"),
    [
        ('uri,caption\na.jpg,"5 inch\nb.jpg,6"\nc.jpg,x\n', "b.jpg,6"),
        ('caption;uri\n"5 inch;a.jpg\nbig 6";b.jpg\n', "5 inch;a.jpg"),
    ],
)
def test_a_quoted_value_that_swallowed_a_row_is_refused_with_its_line(tmp_path, content, swallowed):
    make_folder(tmp_path, {"x.csv": content.encode()})
    with pytest.raises(SourceError, match="line 2 begins a row that cannot be read") as caught:
        listed(tmp_path / "x.csv")
    assert f"(its quoted value has the line {swallowed!r}, which looks like a row)" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        'uri,caption\na.jpg,"left: b.jpg\nright, as in b.jpg\n\n4, 5, 6"\nb.jpg,x\n',
        'caption,uri,size\n"one, big\ntwo",a.jpg,1\n"one\ntwo",b.jpg,2\n',
    ],
)
def test_a_caption_of_several_lines_stays_a_caption(tmp_path, content):
    make_folder(tmp_path, {"x.csv": content.encode()})
    assert [ref.image_id for ref in listed(tmp_path / "x.csv")[0]] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("uri,id\na.jpg\n\nb,1.jpg,2\n", "line 4 has 3 values; expected the header's 2 or fewer"),
        ("uri,x,uri,x,x\na.jpg,1,b.jpg,2,3\n", "its header has 'uri' 2 times; expected each name once"),
    ],
)
def test_a_row_with_more_values_than_names_and_a_repeated_name_are_refused(tmp_path, content, sentence):
    make_folder(tmp_path, {"x.csv": content.encode()})
    with pytest.raises(SourceError) as caught:
        listed(tmp_path / "x.csv")
    assert str(caught.value) == f"source '{tmp_path}/x.csv' is not a readable list: {sentence}"


def test_a_gz_that_is_none_or_is_cut_is_refused(tmp_path):
    packed = gzip.compress(b'{"uri": "a.jpg"}\n' * 9999, mtime=0)
    make_folder(tmp_path, {"no.csv.gz": b"not gzip", "cut.csv.gz": packed[:-9]})
    with pytest.raises(SourceError, match="is not a readable list: Not a gzipped file"):
        parse_sources([f"{tmp_path}/no.csv.gz"])
    with pytest.raises(SourceError, match="is not a readable list: Compressed file ended before"):
        list(lists.read_rows(f"{tmp_path}/cut.csv.gz"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_exported_ids_are_read_back_as_they_are(tmp_path, kind):
    schema = pa.schema([pa.field("image_id", pa.string())])
    writer = TABLE_WRITERS[kind](f"{tmp_path}/x.{kind}", schema)
    writer.write(pa.RecordBatch.from_pydict({"image_id": SPACED}, schema))
    writer.close()
    assert list(read_ids(find_id_list(f"{tmp_path}/x.{kind}"))) == SPACED


NASTY = [
    "http://[gone]/a.jpg", "s3://[a/b.jpg", "http://ex\u2100mple.com/x.jpg", "http://a..b/c", "\0", "/d::zip/a",
    "file://[/a#b", "://", "/", "gs://", "a/b?u=http://c", "HTTP://h", "x" * 5000,
]  # fmt: skip


@given(st.lists(st.text() | st.sampled_from(NASTY), min_size=1, max_size=4))
def test_no_text_as_a_uri_raises_and_each_row_is_a_reference(tmp_path_factory, uris):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(f"{json.dumps({'uri': uri})}\n" for uri in uris))
    refs = list(lists.list_rows(SourceSpec(str(path), "list", str(path), "/nowhere", "", "uri")))
    for number, (ref, uri) in enumerate(zip(refs, uris, strict=True)):
        assert ref.image_id == printable(lists.id_of(uri.strip()) or f"any.jsonl#{number}")
        assert ref.uri == printable(lists.resolve(uri.strip(), "/nowhere") if uri.strip() else "")


def test_a_malformed_uri_is_a_failure_of_its_row(tmp_path):
    uris = ["a.jpg", *NASTY[:4], "file:///d\0/a.jpg", "http://h\\@127.0.0.1/a", "c.jpg"]
    make_folder(tmp_path, {"a.jpg": b"1", "c.jpg": b"22", "x.csv": ("uri\n" + "\n".join(uris)).encode()})
    refs, _ = listed(tmp_path / "x.csv")
    assert [ref.uri for ref in refs] == [f"{tmp_path}/a.jpg", *uris[1:-1], f"{tmp_path}/c.jpg"]
    first, *failures, last = fetch(refs, FetchOptions(attempts=1))
    assert (first, last) == (b"1", b"22")
    assert [error.code for error in failures] == ["unsupported"] * 4 + ["not_found", "unsupported"]


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://u:p@host:80/a/b.jpg?x=1&y=/#part?", ("https", "u:p@host:80", "/a/b.jpg", "x=1&y=/")),
        ("HTTP://host#part/a", ("http", "host", "", "")),
        ("http://[gone]/a.jpg", ("http", "[gone]", "/a.jpg", "")),
        ("s3://[a/b.jpg", ("s3", "[a", "/b.jpg", "")),
        ("s3://b/a?1#2%20.jpg", ("s3", "b", "/a?1#2%20.jpg", "")),
        ("/d/a?#.jpg", ("", "", "/d/a?#.jpg", "")),
        ("gs://b/two\nlines", ("gs", "b", "/two\nlines", "")),
    ],
)
def test_only_http_has_queries_and_fragments(url, parts):
    assert split_url(url) == UrlParts(*parts)


@given(st.text() | st.builds("{}://{}".format, st.sampled_from(["http", "s3", "file", "x-y"]), st.text()))
def test_no_text_raises_and_all_but_http_is_kept_whole(url):
    parts = split_url(url)
    whole = f"{parts.scheme}://{parts.authority}{parts.path}" if parts.scheme else parts.path
    if parts.scheme in ("http", "https"):
        assert url.startswith(whole)
    else:
        assert (whole.lower(), parts.query) == (url.lower(), "")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("latin-1", ": line 2 has the byte 0xe9, byte 8 of it; expected UTF-8 (such as from iconv -f WINDOWS-1252 "),
        ("utf-16", " but UTF-16; expected UTF-8 (such as from iconv -f UTF-16 "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".txt.gz"])
def test_a_list_that_is_not_utf8_is_said_to_be_none(tmp_path, encoding, said, ending):
    path = tmp_path / f"list{ending}"
    data = "url\ncaf\u00e9.jpg\n".encode(encoding)
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    with pytest.raises(SourceError, match=re.escape(f"source {str(path)!r} is not UTF-8{said}-t UTF-8)")):
        parse_sources([str(path)])


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.csv").write_text("url\ncaf\u00e9.jpg\n", encoding="utf-8-sig")
    (spec,) = parse_sources([str(tmp_path / "list.csv")])
    assert [ref.image_id for ref in lists.list_rows(spec)] == ["caf\u00e9.jpg"]
