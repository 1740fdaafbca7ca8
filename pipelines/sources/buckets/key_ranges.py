"""A bucket's prefix cut into ranges of keys, by a few requests: at its folders, else at the keys' next characters.

However the keys are spread, the ranges hold each of them once; how even they are only decides how long it takes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from os.path import commonprefix

from fsspec import AbstractFileSystem

from captionbeam.pipelines.sources.buckets.key_pages import Keys, pages

RANGES = 16  # that one range is cut into, at most
_PAGES = 10  # of what is not worth cutting
_LOOKS = 32  # folders, or beginnings of names, that are looked into for it
_LOOKS_AT_ONCE = 8
_CHARACTERS = 64  # that are told apart at one place of the names
_LOWEST = " "  # of the characters that names have
_LAST, _BEFORE_SURROGATES, _AFTER_SURROGATES = 0x10FFFF, 0xD7FF, 0xE000


def cut(fs: AbstractFileSystem, keys: Keys, ranges: int = RANGES, page: int = 0) -> list[Keys]:
    """``keys`` as disjoint ranges, in order, at most as many as asked for; as it is where a few pages show it all."""
    if any(each.is_last for each in islice(pages(fs, keys, size=page), _PAGES)):
        return [keys]
    bounds = _thinned(sorted(_bounds(fs, keys, ranges, page)), ranges)
    return [keys._replace(start=start, end=end) for start, end in pairwise([keys.start, *bounds, keys.end])]


def _bounds(fs: AbstractFileSystem, keys: Keys, ranges: int, page: int) -> set[str]:
    """Beginnings of keys between the range's own bounds: level by level, until they make half the ranges or more."""
    bounds: set[str] = set()
    shared = commonprefix([keys.start, keys.end])  # noqa: RUF071 (by characters is meant)
    stems, looks = [shared or keys.prefix], _LOOKS
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        while stems and looks > 0 and 2 * len(bounds) < ranges:
            found = list(
                pool.map(lambda stem: _children(fs, keys._replace(prefix=stem), page), stems[:looks])
            )
            looks -= len(stems)
            stems = [child for children in found for child in children]
            bounds.update(child for children in found for child in children[1:] if _inside(child, keys))
    return bounds


def _inside(bound: str, keys: Keys) -> bool:
    return keys.start < bound and (not keys.end or bound < keys.end)


def _children(fs: AbstractFileSystem, keys: Keys, page: int) -> list[str]:
    """The folders of the level of ``keys.prefix``; beginnings of names where one page does not show them all."""
    level = next(pages(fs, keys, "/", page))
    return sorted(level.prefixes) if level.is_last else list(_next_characters(fs, keys))


def _next_characters(fs: AbstractFileSystem, keys: Keys) -> Iterator[str]:
    """What follows the longest beginning that all keys share: each of the beginnings that are one character longer."""
    found = _first(fs, keys)
    if found == keys.prefix:  # a folder's marker: all others are longer
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
    """How many characters all keys from ``first`` on share."""
    places = range(len(keys.prefix), len(first))
    shared = bisect_left(places, True, key=lambda n: _first_after(fs, keys, first[: n + 1]) is not None)
    return len(keys.prefix) + shared


def _first(fs: AbstractFileSystem, keys: Keys) -> str | None:
    if keys.end and keys.start >= keys.end:
        return None
    found = next(pages(fs, keys, size=1))
    return found.objects[0]["key"] if found.objects else None


def _first_after(fs: AbstractFileSystem, keys: Keys, stem: str) -> str | None:
    """The first key after all those that begin with ``stem``."""
    last = ord(stem[-1])
    if last == _LAST:
        return None
    after = _AFTER_SURROGATES if last == _BEFORE_SURROGATES else last + 1
    return _first(fs, keys._replace(start=stem[:-1] + chr(after)))


def _thinned(bounds: list[str], ranges: int) -> list[str]:
    """At most ``ranges`` - 1 of them, evenly."""
    wanted = min(len(bounds), ranges - 1)
    return [bounds[(i * len(bounds)) // wanted] for i in range(wanted)]
