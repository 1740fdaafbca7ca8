"""Which addresses a URI out of a list may lead to: what a stranger writes must not reach a network's inside.

An address is looked at when a socket is made for it, after every name has become a number: odd spellings, names that
resolve to something else the second time, and redirects all come to that.
"""

from __future__ import annotations

import ipaddress
import posixpath
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from fsspec.registry import known_implementations

from captionbeam.pipelines.sources.urls import split_url
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

HOW = "--allow-private-addresses reads it"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Object stores: read with this job's credentials, at a host that the user's own options name.
_STORES = frozenset({"gs", "gcs", "s3", "s3a"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddress(Exception):
    """A connection to an address that is not for everybody."""


def is_public(address: str) -> bool:
    """Whether ``address`` (of a socket: digits, and perhaps a zone) is for everybody on the internet.

    Not so are private, shared, loopback, link-local, multicast, unspecified and reserved ones, nor IPv6 addresses that
    stand for one of these.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    return all(_is_everybodys(each) for each in (ip, *_embedded(ip)))


def _is_everybodys(ip: Address) -> bool:
    return ip.is_global and not ip.is_multicast and not getattr(ip, "is_site_local", False)


def _embedded(ip: Address) -> list[Address]:
    if ip.version == 4:
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def public_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for one of ``getaddrinfo``'s answers. Raises PrivateAddress."""
    family, kind, protocol, _, place = address
    if not is_public(place[0]):
        raise PrivateAddress(place[0])
    return socket.socket(family=family, type=kind, proto=protocol)


async def guarded_client(**settings: Any) -> aiohttp.ClientSession:
    """A session of which no connection leads to a private address."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=public_socket), **settings)


def origin(url: str) -> str:
    """``http://host:8000`` of an HTTP URL: what is trusted, or not, as one."""
    parts = split_url(url)
    return f"{parts.scheme}://{parts.authority.rpartition('@')[2].lower()}"


def origins(urls: Iterable[str]) -> tuple[str, ...]:
    """Those of the HTTP URLs among ``urls``."""
    return tuple(dict.fromkeys(origin(url) for url in urls if url.startswith(("http://", "https://"))))


def inside(origins: Iterable[str]) -> tuple[str, ...]:
    """Those whose host has private addresses alone, asked now: a public one needs no exemption from being looked at."""
    return tuple(each for each in origins if _is_inside(each))


def _is_inside(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False
    return bool(found) and not any(is_public(str(place[0])) for *_, place in found)


def refusal(ref: ImageRef, trusted: Iterable[str]) -> ImageError | None:
    """Why a file that a list names is not read, whatever is there.

    A list may choose HTTP, object stores, its own protocol, and what is below a folder among ``trusted``; one that lies
    on this machine's disk also its files. Any other protocol names hosts, or reads who knows what.
    """
    protocol, own = _protocol(ref.uri), _protocol(ref.source)
    if protocol in ("http", "https"):
        return None  # looked at when it is connected to
    if _is_same(protocol, own) or protocol in _STORES or _is_below(ref.uri, trusted):
        return None
    if protocol == "file":
        return _denied(
            ref, f"a list at {ref.source} may not name this machine's files, but below --image-root"
        )
    return _denied(ref, f"a list may not choose the protocol {protocol!r}")


def _protocol(url: str) -> str:
    found = files.scheme(url).lower()
    return "file" if found in ("", "local") else found


def _is_same(protocol: str, own: str) -> bool:
    """Also by another name of it: what is at ``az://`` is listed as ``abfs://``."""
    kinds = [known_implementations.get(name, {}).get("class") for name in (protocol, own)]
    return protocol == own or (kinds[0] == kinds[1] is not None)


def _is_below(uri: str, folders: Iterable[str]) -> bool:
    path = _normal(uri)
    return any(path.startswith(f"{_normal(folder)}/") for folder in folders)


def _normal(url: str) -> str:
    return posixpath.normpath(url.removeprefix("file://").removeprefix("local://")).rstrip("/")


def _denied(ref: ImageRef, why: str) -> ImageError:
    return ImageError("denied", "fetch", f"{ref.uri}: {why}; {HOW}")
