"""Checks the addresses of URIs in lists, so that untrusted lists cannot reach private networks.

The check runs when a socket is created, after name resolution. It therefore covers unusual spellings, names that
resolve differently the second time, and redirects.
"""

from __future__ import annotations

import ipaddress
import posixpath
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fsspec.registry import known_implementations

from captionbeam.pipelines.fetch.urls import split_url
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    import aiohttp

HOW = "--allow-private-addresses reads it"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Object stores are read with this job's credentials, at a host from the user's own options.
_STORES = frozenset({"gs", "gcs", "s3", "s3a"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddress(Exception):
    """A connection to an address that is not public."""


def is_public(address: str) -> bool:
    """Returns whether a socket ``address`` (an IP address with an optional zone) is public.

    Private, shared, loopback, link-local, multicast, unspecified and reserved addresses are not public, nor are IPv6
    addresses that embed one of these.
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
    """Returns a socket for one result of ``getaddrinfo``. Raises PrivateAddress."""
    family, kind, protocol, _, place = address
    if not is_public(place[0]):
        raise PrivateAddress(place[0])
    return socket.socket(family=family, type=kind, proto=protocol)


async def guarded_client(**settings: Any) -> aiohttp.ClientSession:
    """Returns a session that cannot connect to private addresses."""
    import aiohttp  # slow

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=public_socket), **settings)


def origin(url: str) -> str:
    """Returns the origin of an HTTP URL, such as ``http://host:8000``, which is the unit of trust."""
    parts = split_url(url)
    return f"{parts.scheme}://{parts.authority.rpartition('@')[2].lower()}"


def origins(urls: Iterable[str]) -> tuple[str, ...]:
    """Returns the origins of the HTTP URLs among ``urls``."""
    return tuple(dict.fromkeys(origin(url) for url in urls if url.startswith(("http://", "https://"))))


def inside(origins: Iterable[str]) -> tuple[str, ...]:
    """Returns the origins whose hosts currently have private addresses only. Public hosts need no exemption."""
    return tuple(each for each in origins if _is_inside(each))


def _is_inside(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False
    return bool(found) and not any(is_public(str(place[0])) for *_, place in found)


def refusal(ref: ImageRef, trusted: Iterable[str]) -> ImageError | None:
    """Returns why a file that a list names is not read, or None.

    A list may name HTTP URLs, object stores, URLs of its own protocol, and files below a folder in ``trusted``. A
    list on the local disk may also name local files. Other protocols may reach hosts or read unintended resources.
    """
    protocol, own = _protocol(ref.uri), _protocol(ref.source)
    if protocol in ("http", "https"):
        return None  # checked when it is connected to
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
    """Compares protocols including aliases, such as ``az://`` and ``abfs://``."""
    kinds = [known_implementations.get(name, {}).get("class") for name in (protocol, own)]
    return protocol == own or (kinds[0] == kinds[1] is not None)


def _is_below(uri: str, folders: Iterable[str]) -> bool:
    path = _normal(uri)
    return any(path.startswith(f"{_normal(folder)}/") for folder in folders)


def _normal(url: str) -> str:
    return posixpath.normpath(url.removeprefix("file://").removeprefix("local://")).rstrip("/")


def _denied(ref: ImageRef, why: str) -> ImageError:
    return ImageError("denied", "fetch", f"{ref.uri}: {why}; {HOW}")
