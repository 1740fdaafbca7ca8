"""What listings of real GCS and S3 servers say of images: versions, lengths, digests."""

from __future__ import annotations

import hashlib

from captionbeam.pipelines.fetch.images import fetch
from captionbeam.pipelines.sources.spec import digest_of
from captionbeam.schemas.storage import files
from tests.builders.sources import listed, picture


def test_a_bucket_is_listed_with_versions_and_digests(bucket):
    contents = {"a.jpg": picture("a"), "in/b.jpg": picture("b"), "in/deep/a-copy.jpg": picture("a")}
    for name, data in contents.items():
        files.write_atomic(files.join(bucket.url, "photos", name), data)
    files.write_atomic(files.join(bucket.url, "photos/notes.md"), b"#")
    refs, ignored = listed(f"{bucket.url}/photos")
    found = {ref.image_id: ref for ref in refs}
    assert found.keys() == contents.keys()
    assert ignored == [f"{bucket.url}/photos/notes.md"]
    assert {name: ref.length for name, ref in found.items()} == {n: len(data) for n, data in contents.items()}
    assert found["a.jpg"].digest == found["in/deep/a-copy.jpg"].digest != found["in/b.jpg"].digest
    assert all(ref.digest and ref.version for ref in refs)
    assert fetch(refs) == [contents[ref.image_id] for ref in refs]


def test_a_changed_image_has_another_version(bucket):
    url = files.join(bucket.url, "photos/a.jpg")
    files.write_atomic(url, picture("a"))
    (before,), _ = listed(f"{bucket.url}/photos")
    files.write_atomic(url, picture("b"))
    (after,), _ = listed(f"{bucket.url}/photos")
    assert before.version != after.version


def test_only_what_is_of_the_content_is_a_digest():
    md5 = hashlib.md5(b"x", usedforsecurity=False).hexdigest()
    assert digest_of({"md5Hash": "ndTkYSaMgDT1yFZOFVxnpg==", "etag": "CJ"}) == "ndTkYSaMgDT1yFZOFVxnpg=="
    assert digest_of({"ETag": f'"{md5}"'}) == md5
    assert digest_of({"ETag": f'"{md5}-12"'}) == ""
    assert digest_of({"size": 3, "mtime": 1.0}) == ""
