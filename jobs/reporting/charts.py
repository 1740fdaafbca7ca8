"""Small inline SVG charts: lines over epochs, and histograms. The page's CSS sets the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 30


@dataclass(frozen=True)
class Scale:
    """Maps a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], best: float | None = None) -> Markup:
    """Draws lines of (epoch, value) points by name, without non-finite values; ``best`` marks an epoch."""
    lines = {name: [p for p in points if math.isfinite(p[1])] for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Markup("")
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    low, high = min(ys), max(ys)
    ticks = nice_ticks(0.0 if 0 <= low < (high - low) * 1.5 else low, high)
    across = Scale(min(xs), max(xs), LEFT + 8, WIDTH - RIGHT - 8)
    up = Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    mark = Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
    marks = [mark.format(across(best), TOP, HEIGHT - BOTTOM)] if best is not None else []
    drawn = [_line(at, name, points, across, up) for at, (name, points) in enumerate(lines.items())]
    return _svg([_grid(ticks, up), *marks, _epochs(sorted(set(xs)), across), *drawn], ", ".join(lines))


def histogram(values: Sequence[float], bins: Sequence[float], unit: str) -> Markup:
    """Draws counts of ``values`` per bin; values beyond the last bin are counted in it."""
    counts = np.histogram(np.clip(values, bins[0], bins[-2]), bins)[0].tolist()
    ticks = nice_ticks(0, max(*counts, 1))
    up = Scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(counts)
    bars = [_bar(LEFT + at * step, step, up(n), _range(bins, at, unit), n) for at, n in enumerate(counts)]
    every = math.ceil(len(bins) / 9)
    marked = [*enumerate(bins)][::every]
    labels = [_text(LEFT + at * step, HEIGHT - 10, f"{low:g}", "middle") for at, low in marked]
    return _svg([_grid(ticks, up), *bars, *labels], f"histogram, {unit}")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns round numbers that span ``low`` to ``high``.

    >>> nice_ticks(0, 97)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    span = max(high - low, abs(high) * 1e-6) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(at * step, 10) for at in range(first, max(last, first + 1) + 1)]


def _svg(parts: Sequence[Markup], label: str) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, HEIGHT, label
    )
    return Markup("").join([head, *parts, Markup("</svg>")])


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        round(x, 1), round(y, 1), anchor, text
    )


def _grid(ticks: Sequence[float], up: Scale) -> Markup:
    rule = Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    rows = [
        rule.format(LEFT, WIDTH - RIGHT, up(tick), up(tick))
        + _text(LEFT - 7, up(tick) + 4, f"{tick:g}", "end")
        for tick in ticks
    ]
    return Markup("").join(rows)


def _epochs(epochs: Sequence[float], across: Scale) -> Markup:
    shown = epochs[:: math.ceil(len(epochs) / 10)]
    return Markup("").join(_text(across(epoch), HEIGHT - 10, f"{epoch:g}", "middle") for epoch in shown)


def _line(at: int, name: str, points: Sequence[tuple[float, float]], across: Scale, up: Scale) -> Markup:
    path = " ".join(f"{across(x)},{up(y)}" for x, y in points)
    line = Markup('<polyline class="line s{}" points="{}"/>').format(at, path)
    dot = Markup('<circle class="dot s{}" cx="{}" cy="{}" r="3"><title>{}, epoch {}: {}</title></circle>')
    dots = [dot.format(at, across(x), up(y), name, f"{x:g}", f"{y:.4g}") for x, y in points]
    return Markup("").join([line, *dots])


def _bar(x: float, width: float, top: float, label: str, count: int) -> Markup:
    bar = '<rect class="bar" x="{}" y="{}" width="{}" height="{}" rx="2"><title>{}: {}</title></rect>'
    height = round(HEIGHT - BOTTOM - top, 1)
    return Markup(bar).format(round(x + 1, 1), top, round(width - 2, 1), height, escape(label), f"{count:,}")


def _range(bins: Sequence[float], at: int, unit: str) -> str:
    last = at == len(bins) - 2
    return f"{bins[at]:g} and more {unit}" if last else f"{bins[at]:g} to {bins[at + 1]:g} {unit}"
