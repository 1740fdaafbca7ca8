"""Where a list's URIs may not lead: looked at where a connection is made, whatever the URI says."""

from __future__ import annotations

import argparse
import gzip
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.source_options import add_fetch_options, fetch_options
from pipelines import addresses
from pipelines.fetch import fetch
from pipelines.reads import read_spans
from pipelines.sources.lists import ref_of
from pipelines.sources.spec import SourceSpec
from pipelines.spans import FetchOptions, Span
from schemas import storage
from schemas.errors import ImageError, SourceError
from schemas.records import ImageRef
from tests.builders.commands import captionbeam
from tests.builders.sources import Web, listed, picture

ONCE = FetchOptions(attempts=1, timeout=5)
OPEN = FetchOptions(attempts=1, timeout=5, allow_private=True)

INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1",
    "2001:0:7f00:1::1", "fd00:ec2::254",
]  # fmt: skip
OUTSIDE = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "2600::1",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_of_the_inside(address):
    assert not addresses.is_public(address)
    with pytest.raises(addresses.PrivateAddress):
        addresses.public_socket((socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0)))


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_for_everybody(address):
    assert addresses.is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_in_the_clothes_of_ipv6_is_what_it_is(ip):
    mapped = f"::ffff:{ip}"
    assert (
        addresses.is_public(mapped) == addresses.is_public(str(ip)) == (ip.is_global and not ip.is_multicast)
    )
    assert addresses.is_public(str(ipaddress.IPv6Address((0x64FF9B << 96) | int(ip)))) == addresses.is_public(
        str(ip)
    )


def fetched(uri, options=ONCE, source="list.txt"):
    return fetch([ImageRef(uri, uri, source, None)], options)[0]


def is_denied(result):
    return isinstance(result, ImageError) and result.code == "denied" and addresses.HOW in result.message


SPELLINGS = ["127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0x7f000001"]
ODD = ["2130706433", "0177.0.0.1", "127.1", "0", "127.0.0.01"]  # aiohttp itself takes no such digits


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_this_machine_is_read_unless_allowed(host):
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        url = f"http://{host}:{web.url.rpartition(':')[2]}/a.jpg"
        assert is_denied(fetched(url))
        assert not web.requests
        assert fetched(url, OPEN) == picture("a")


@pytest.mark.parametrize("host", ODD)
def test_digits_that_are_no_plain_address_are_never_read(host):
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        url = f"http://{host}:{web.url.rpartition(':')[2]}/a.jpg"
        assert [fetched(url, options).code for options in (ONCE, OPEN)] == ["unsupported"] * 2
        assert not web.requests


def test_what_the_user_named_is_his_own_choice():
    """The server that a source, or the images' root, lies on; another port of it is another server."""
    with (
        Web({"a.jpg": picture("a")}, ranges=False) as web,
        Web({"b.jpg": picture("b")}, ranges=False) as other,
    ):
        named = addresses.origins([f"{web.url}/list.csv", "gs://bucket"])
        options = FetchOptions(attempts=1, trusted=named, inside=addresses.inside(named))
        assert fetched(f"{web.url}/a.jpg", options) == picture("a")
        assert is_denied(fetched(f"{other.url}/b.jpg", options))


@contextmanager
def answering(answer) -> Iterator[str]:
    """A server that leaves each GET to ``answer(handler)``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def moved_to(target):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", target(handler) if callable(target) else target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_a_redirect_is_looked_at_like_the_first_address():
    with Web({"a.jpg": picture("a")}, ranges=False) as web, answering(moved_to(f"{web.url}/a.jpg")) as url:
        trusted = FetchOptions(attempts=1, inside=addresses.origins([url]))
        found = fetched(f"{url}/x.jpg", trusted)
        assert is_denied(found)
        assert f"{url}/x.jpg: is redirected to {web.url}/a.jpg, whose address 127.0.0.1" in found.message
        assert not web.requests
        assert fetched(f"{url}/x.jpg", OPEN) == picture("a")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gs://bucket/a.jpg", "ftp://127.0.0.1/a.jpg"])
def test_a_redirect_leads_to_http_only(target):
    with answering(moved_to(target)) as url:
        assert fetched(url, OPEN).code == "denied"


def test_redirects_end():
    seen = []
    with answering(moved_to(lambda handler: seen.append(handler.path) or f"{handler.path}x")) as url:
        found = fetched(f"{url}/a", OPEN)
        assert (found.code, len(seen)) == ("not_found", 6)
        assert "is redirected more than 5 times" in found.message


def test_a_name_that_leads_elsewhere_the_second_time_is_caught(monkeypatch):
    """A name is looked at as what it resolved to for this very connection: nothing is looked up before."""
    answers = ["93.184.216.34", "127.0.0.1"]
    real = socket.getaddrinfo

    def rebinding(host, port, *args, **kwargs):
        if host != "rebinding.example":
            return real(host, port, *args, **kwargs)
        return [
            (
                socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (answers.pop(0) if len(answers) > 1 else answers[0], port),
            )
        ]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    answers.pop(0)  # the first answer has been given to whoever asked before
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        assert is_denied(fetched(f"http://rebinding.example:{web.url.rpartition(':')[2]}/a.jpg"))
        assert not web.requests


def test_more_than_is_allowed_is_not_read_whatever_the_header_says():
    sent = []

    def swelling(handler):
        data = gzip.compress(b"\0" * 50_000_000)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(data)

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"\0" * 65_536)
                sent.append(1)
        except OSError:
            pass

    small = FetchOptions(attempts=1, max_bytes=1_000_000, allow_private=True)
    with answering(endless) as url:
        assert fetched(url, small).code == "too_large"
        assert len(sent) < 1_000
    with answering(swelling) as url:
        assert fetched(url, small).code == "too_large"


def test_a_server_that_sends_a_byte_now_and_then_is_given_up():
    dripped = []

    def dripping(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b"x")
                dripped.append(1)
                time.sleep(0.05)
        except OSError:
            pass

    with answering(dripping) as url:
        assert fetched(url, FetchOptions(attempts=1, timeout=0.5, allow_private=True)).code == "timeout"
        assert len(dripped) < 200


def test_a_list_that_lies_elsewhere_names_no_files_of_this_machine(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(picture("a"))
    (tmp_path / "b.jpg").write_bytes(picture("b"))
    inside, beside = f"{tmp_path}/in/a.jpg", f"{tmp_path}/in/../b.jpg"
    for uri in (inside, beside, f"file://{inside}", f"local://{inside}"):
        assert is_denied(fetched(uri, source="gs://bucket/list.txt")), uri
    below = FetchOptions(trusted=(f"{tmp_path}/in",))
    assert fetched(inside, below, "https://example.org/list.csv") == picture("a")
    assert is_denied(fetched(beside, below, "https://example.org/list.csv"))
    assert fetched(beside, source=f"{tmp_path}/list.txt") == picture("b")


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://127.0.0.1/a.jpg", "sftp://h/a", "webhdfs://h/a", "simplecache::http://127.0.0.1/a", "dir:///x.jpg",
        "generic://x", "dbfs://x", "asyncwrapper://x", "data:///text,abc", "memory://x.jpg", "zip:///x.jpg",
        "MEMORY://x", "nowhere://x",
    ],
)  # fmt: skip
def test_a_list_chooses_no_protocol_but_a_few(uri):
    assert is_denied(fetched(uri, source="gs://bucket/list.txt"))
    assert is_denied(fetched(uri))


@pytest.mark.parametrize(
    "uri", ["dir:///x.jpg", "generic://x", "dbfs://x", "asyncwrapper://x", "nowhere://x"]
)
def test_what_cannot_be_opened_is_one_images_failure_where_any_protocol_is_allowed(uri):
    assert fetched(uri, OPEN).code == "unsupported"


def test_a_list_may_choose_its_own_protocol_and_what_lies_below_a_named_root():
    fs = fsspec.filesystem("memory")
    fs.pipe({"/named/a.jpg": picture("a"), "/b.jpg": picture("b")})
    try:
        assert fetched("memory://b.jpg", source="memory://lists/list.txt") == picture("b")
        below = FetchOptions(trusted=("memory://named",))
        assert fetched("memory://named/a.jpg", below) == picture("a")
        assert is_denied(fetched("memory://named/../b.jpg", below))
    finally:
        fs.rm(["/named/a.jpg", "/b.jpg"])


def test_a_protocol_may_have_other_names():
    ref = ImageRef("a.jpg", "s3a://bucket/a.jpg", "memory://x", None)
    assert addresses.refusal(ref, ()) is None
    assert addresses.refusal(ref._replace(uri="abfs://c/a.jpg", source="az://c"), ()) is None
    assert addresses.refusal(ref._replace(uri="abfs://c/a.jpg", source="gs://c"), ()) is not None


@pytest.fixture
def credentials():
    """Options for HTTP, in every place that has some; taken back afterwards."""
    before = dict(storage.current())
    secrets = {"headers": {"X-Key": "secret"}, "cookies": {"session": "secret"}}
    storage.use(
        {"http": {**secrets, "client_kwargs": {"headers": {"X-Other": "secret"}, "trust_env": False}}}
    )
    yield
    storage.use(before)


def sent_secrets(handler):
    return sorted(
        name for name in ("X-Key", "X-Other", "Cookie") if "secret" in (handler.headers.get(name) or "")
    )


def test_credentials_go_to_the_named_server_alone(credentials):
    heard = {}

    def hear(name, then=None):
        def answer(handler):
            heard[name] = sent_secrets(handler)
            if then:
                moved_to(then)(handler)
                return
            handler.send_response(200)
            handler.send_header("Content-Length", "1")
            handler.end_headers()
            handler.wfile.write(b"x")

        return answer

    with answering(hear("other")) as other, answering(hear("mine", f"{other}/b.jpg")) as mine:
        named = addresses.origins([mine])
        for options in (FetchOptions(attempts=1, trusted=named, inside=addresses.inside([mine, other])),
                        FetchOptions(attempts=1, trusted=named, allow_private=True)):  # fmt: skip
            heard.clear()
            assert fetched(f"{mine}/a.jpg", options) == b"x"
            assert heard == {"mine": ["Cookie", "X-Key", "X-Other"], "other": []}
        assert fetched(f"{other}/b.jpg", OPEN) == b"x"
        assert heard["other"] == []


def test_a_named_server_that_was_public_is_looked_at_all_the_same(monkeypatch):
    """Its name may lead inside by the time that its images are read."""
    answers, real = ["93.184.216.34"], socket.getaddrinfo

    def rebinding(host, port, *args, **kwargs):
        if host != "rebinding.example":
            return real(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        url = f"http://rebinding.example:{web.url.rpartition(':')[2]}"
        parser = argparse.ArgumentParser()
        add_fetch_options(parser)
        given = parser.parse_args([])
        given.sources, given.image_root = [f"{url}/list.txt"], None
        options = fetch_options(given)
        assert (options.trusted, options.inside) == ((url,), ())
        answers[0] = "127.0.0.1"
        assert is_denied(fetched(f"{url}/a.jpg", options))
        assert not web.requests
        assert fetch_options(given).inside == (url,)


@pytest.mark.parametrize("said", ["bytes 0-9/100", ""])
def test_another_range_than_was_asked_for_is_not_taken(said):
    def answer(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", said)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"0123456789")

    with answering(answer) as url:
        with pytest.raises(SourceError, match=f"sends the range '{said}'; expected bytes from 10"):
            read_spans([Span(f"{url}/x.zip", 10, 20)], OPEN)
        if not said:
            assert fetched(f"{url}/a.jpg", OPEN).code == "unsupported"


def test_an_answer_that_is_no_http_may_pass():
    def answer(handler):
        handler.wfile.write(b"NONSENSE\r\n\r\n")

    with answering(answer) as url:
        assert fetched(f"{url}/a.jpg", OPEN).code == "unavailable"


def test_letters_of_a_scheme_may_be_large(tmp_path):
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        large = web.url.replace("http", "HTTP")
        (tmp_path / "list.txt").write_text(f"{large}/a.jpg\n")
        ((ref,), _) = listed(tmp_path / "list.txt")
        assert fetch([ref], OPEN) == [picture("a")]
        with answering(moved_to(f"{large}/a.jpg")) as url:
            assert fetched(url, OPEN) == picture("a")


def test_files_that_a_list_may_not_name_are_not_even_looked_for(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    (tmp_path / "empty.jpg").write_bytes(b"")
    spec = SourceSpec("gs://bucket/list.txt", "list", "gs://bucket/list.txt", "gs://bucket")
    for name in ("a.jpg", "empty.jpg"):
        ref = ref_of(str(tmp_path / name), name, spec)
        assert (ref.version, ref.length) == (None, -1)
        assert is_denied(fetch([ref._replace(length=0)])[0])
    assert ref_of(str(tmp_path / "a.jpg"), "a", spec._replace(root=str(tmp_path))).length == 3


def test_a_coco_file_sends_nobody_anywhere_before_the_job_begins(tmp_path):
    """Its URIs are a stranger's: they are read by workers, within the limits. What is below the root is looked for."""
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        entries = [{"id": n, "file_name": f"{web.url}/{n}.jpg"} for n in range(8)]
        (tmp_path / "c.json").write_text(json.dumps({"images": entries}))
        assert len(listed(tmp_path / "c.json")[0]) == 8
        assert not web.requests
    entries.append({"id": 9, "file_name": "gone.jpg"})
    (tmp_path / "c.json").write_text(json.dumps({"images": entries[1:]}))
    with pytest.raises(SourceError, match=r"names images like '.*/gone.jpg', which is not there"):
        listed(tmp_path / "c.json")


def test_from_the_command_line(tmp_path):
    """A row of failure with what to do about it; with the flag, a row. The list's own server needs no flag."""
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        (tmp_path / "list.txt").write_text(f"{web.url}/a.jpg\n")
        command = ["encode", tmp_path / "list.txt", "--encoder", "efficientnet_lite0", "--precision", "fp32"]
        captionbeam(*command, "--output", tmp_path / "a", status=3)
        said = captionbeam("store", "failures", tmp_path / "a").stdout
        assert "denied" in said
        assert "--allow-private-addresses" in said
        captionbeam(*command, "--output", tmp_path / "b", "--allow-private-addresses", status=3)
        assert "decode" in captionbeam("store", "failures", tmp_path / "b").stdout
