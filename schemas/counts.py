"""Counts in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Returns the number with its noun: ``1 row``, ``2,500 rows``, ``3 processes``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
