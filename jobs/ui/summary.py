"""The summary table at the end of a job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from captionbeam.jobs.ui.terminal import is_speaking, visible
from captionbeam.schemas.counts import counted


def print_table(title: str, rows: Mapping[str, Any]) -> None:
    """Prints two columns on standard output: names and values."""
    table = Table(title=visible(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(visible(name), "\n".join(map(visible, str(value).split("\n"))))
    console(width=110).print(table)


def console(width: int) -> Console:
    """Returns a console on standard output, ``width`` columns wide unless it is a terminal, with markup disabled."""
    return Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else width,
        markup=False,
        emoji=False,
        highlight=False,
        quiet=not is_speaking(),
    )


def empty_places_line(images: int, columns: Mapping[str, int]) -> str:
    """Returns how many images have no value in a column that prompts use. ``columns``: how many have none in each."""
    alone = list(columns.values()) == [images]
    names = ", ".join(f"{{{name}}}" + ("" if alone else f" {n:,}") for name, n in sorted(columns.items()))
    said = f"{counted(images, 'image')} {'has' if images == 1 else 'have'} no value"
    return f"{said} in a column that a prompt uses ({names}); its place in the prompt is empty"


def size(count: float) -> str:
    """Formats a number of bytes, as ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def cost_per_million(images_per_second: float, price_per_hour: float) -> float:
    """Returns the cost of a million images at this rate and price."""
    return 1e6 / max(images_per_second, 1e-9) / 3600 * price_per_hour
