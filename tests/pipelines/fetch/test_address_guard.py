"""Where a list's URIs may not lead: looked at where a connection is made, whatever the URI says."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import time

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.jobs.options.sources import SourceOptions, fetch_options
from captionbeam.pipelines.fetch import address_guard
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from tests.builders.data.sources import Web, picture
from tests.builders.web.answers import ONCE, OPEN, answering, fetched, is_denied, moved_to

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
    assert not address_guard.is_public(address)
    with pytest.raises(address_guard.PrivateAddress):
        address_guard.public_socket((socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0)))


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_for_everybody(address):
    assert address_guard.is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_in_the_clothes_of_ipv6_is_what_it_is(ip):
    mapped = f"::ffff:{ip}"
    assert (
        address_guard.is_public(mapped)
        == address_guard.is_public(str(ip))
        == (ip.is_global and not ip.is_multicast)
    )
    assert address_guard.is_public(
        str(ipaddress.IPv6Address((0x64FF9B << 96) | int(ip)))
    ) == address_guard.is_public(str(ip))


SPELLINGS = ["127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0x7f000001"]


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_this_machine_is_read_unless_allowed(host):
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        url = f"http://{host}:{web.url.rpartition(':')[2]}/a.jpg"
        assert is_denied(fetched(url))
        assert not web.requests
        assert fetched(url, OPEN) == picture("a")


def test_what_the_user_named_is_his_own_choice():
    """The server that a source, or the images' root, lies on; another port of it is another server."""
    with (
        Web({"a.jpg": picture("a")}, ranges=False) as web,
        Web({"b.jpg": picture("b")}, ranges=False) as other,
    ):
        named = address_guard.origins([f"{web.url}/list.csv", "gs://bucket"])
        options = FetchOptions(attempts=1, trusted=named, inside=address_guard.inside(named))
        assert fetched(f"{web.url}/a.jpg", options) == picture("a")
        assert is_denied(fetched(f"{other.url}/b.jpg", options))


def test_a_redirect_is_looked_at_like_the_first_address():
    with Web({"a.jpg": picture("a")}, ranges=False) as web, answering(moved_to(f"{web.url}/a.jpg")) as url:
        trusted = FetchOptions(attempts=1, inside=address_guard.origins([url]))
        found = fetched(f"{url}/x.jpg", trusted)
        assert is_denied(found)
        assert f"{url}/x.jpg: is redirected to {web.url}/a.jpg, whose address 127.0.0.1" in found.message
        assert not web.requests
        assert fetched(f"{url}/x.jpg", OPEN) == picture("a")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gs://bucket/a.jpg", "ftp://127.0.0.1/a.jpg"])
def test_a_redirect_leads_to_http_only(target):
    with answering(moved_to(target)) as url:
        assert fetched(url, OPEN).code == "denied"


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


# aiohttp itself takes no such digits
@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "127.1", "0"])
def test_digits_that_are_no_plain_address_are_never_read(host):
    with Web({"a.jpg": picture("a")}, ranges=False) as web:
        url = f"http://{host}:{web.url.rpartition(':')[2]}/a.jpg"
        assert [fetched(url, options).code for options in (ONCE, OPEN)] == ["unsupported"] * 2
        assert not web.requests


def test_redirects_end():
    seen = []
    with answering(moved_to(lambda handler: seen.append(handler.path) or f"{handler.path}x")) as url:
        found = fetched(f"{url}/a", OPEN)
        assert (found.code, len(seen)) == ("not_found", 6)
        assert "is redirected more than 5 times" in found.message


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
        given = SourceOptions(sources=(f"{url}/list.txt",))
        options = fetch_options(given)
        assert (options.trusted, options.inside) == ((url,), ())
        answers[0] = "127.0.0.1"
        assert is_denied(fetched(f"{url}/a.jpg", options))
        assert not web.requests
        assert fetch_options(given).inside == (url,)
