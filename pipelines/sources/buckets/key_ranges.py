"""Cuts a bucket's prefix into ranges of keys with a few requests: at folders, else at the keys' next characters.

Each key is in exactly one range for any distribution of keys. The distribution only affects how even the ranges are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from os.path import commonprefix

from fsspec import AbstractFileSystem

from captionbeam.pipelines.sources.buckets.key_pages import Keys, pages

RANGES = 16  # maximum number of ranges from one range
_PAGES = 10  # pages below which a range is not cut
_MAX_REQUESTS = 32  # maximum number of folders or prefixes to examine
_CONCURRENT_REQUESTS = 8
_CHARACTERS = 64  # maximum number of distinct characters at one position
_LOWEST = " "  # lowest character in key names
_LAST, _BEFORE_SURROGATES, _AFTER_SURROGATES = 0x10FFFF, 0xD7FF, 0xE000


def cut(fs: AbstractFileSystem, keys: Keys, ranges: int = RANGES, page: int = 0) -> list[Keys]:
    """Returns ``keys`` as at most ``ranges`` disjoint ranges in order; unchanged if it has only a few pages."""
    if any(each.is_last for each in islice(pages(fs, keys, size=page), _PAGES)):
        return [keys]
    found = sorted(_bounds(fs, keys, ranges, page))
    wanted = min(len(found), ranges - 1)
    bounds = [found[i * len(found) // wanted] for i in range(wanted)]  # evenly spaced
    return [keys._replace(start=start, end=end) for start, end in pairwise([keys.start, *bounds, keys.end])]


def _bounds(fs: AbstractFileSystem, keys: Keys, ranges: int, page: int) -> set[str]:
    """Returns prefixes within the range as bounds, level by level, until there are enough for half the ranges."""
    bounds: set[str] = set()
    shared = commonprefix([keys.start, keys.end])  # noqa: RUF071 (compares characters)
    stems, requests = [shared or keys.prefix], _MAX_REQUESTS
    with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        while stems and requests > 0 and 2 * len(bounds) < ranges:
            found = list(
                pool.map(lambda stem: _children(fs, keys._replace(prefix=stem), page), stems[:requests])
            )
            requests -= len(stems)
            stems = [child for children in found for child in children]
            inner = [child for children in found for child in children[1:] if child > keys.start]
            bounds.update(child for child in inner if not keys.end or child < keys.end)
    return bounds


def _children(fs: AbstractFileSystem, keys: Keys, page: int) -> list[str]:
    """Returns the folders at the level of ``keys.prefix``, or prefixes of names if the level exceeds one page."""
    level = next(pages(fs, keys, "/", page))
    return sorted(level.prefixes) if level.is_last else list(_next_characters(fs, keys))


def _next_characters(fs: AbstractFileSystem, keys: Keys) -> Iterator[str]:
    """Yields the prefixes that are one character longer than the longest common prefix of all keys."""
    found = _first(fs, keys)
    if found == keys.prefix:  # a folder marker: all other keys are longer
        found = _first(fs, keys._replace(start=found + _LOWEST))
    if found is None:
        return
    place = _where_they_part(fs, keys, found)
    for _ in range(_CHARACTERS):
        if found is None or len(found) <= place:
            return
        yield found[: place + 1]
        found = _first_after(fs, keys, found[: place + 1])


def _where_they_part(fs: AbstractFileSystem, keys: Keys, first: str) -> int:
    """Returns the length of the common prefix of all keys from ``first`` on."""
    places = range(len(keys.prefix), len(first))
    shared = bisect_left(places, True, key=lambda n: _first_after(fs, keys, first[: n + 1]) is not None)
    return len(keys.prefix) + shared


def _first(fs: AbstractFileSystem, keys: Keys) -> str | None:
    if keys.end and keys.start >= keys.end:
        return None
    found = next(pages(fs, keys, size=1))
    return found.objects[0]["key"] if found.objects else None


def _first_after(fs: AbstractFileSystem, keys: Keys, stem: str) -> str | None:
    """Returns the first key after all keys that start with ``stem``."""
    last = ord(stem[-1])
    if last == _LAST:
        return None
    after = _AFTER_SURROGATES if last == _BEFORE_SURROGATES else last + 1
    return _first(fs, keys._replace(start=stem[:-1] + chr(after)))
