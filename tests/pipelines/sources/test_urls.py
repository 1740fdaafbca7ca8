"""Splitting URIs: what is a query, a fragment, or a part of a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.sources.spec import UrlParts, split_url


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
