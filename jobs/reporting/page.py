"""The page's data classes, and its rendering by a template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from captionbeam.capmodel.metrics.ptb import tokenize
from captionbeam.capmodel.training.epoch_history import best_epoch
from captionbeam.jobs.reporting.charts import histogram, line_chart
from captionbeam.jobs.reporting.pictures import Look, Picture, looks, seen_window
from captionbeam.jobs.reporting.rows import Brief, Row
from captionbeam.schemas.errors import is_transient

LENGTH_BINS = tuple(range(22))
CIDER_BINS = tuple(step / 4 for step in range(14))
EXAMPLES = 3


@dataclass(frozen=True)
class Said:
    """One caption: each word with whether a reference has it (None if there are no references).

    ``logprob``: of the whole caption and mean of a token; None for an endpoint's answer, which has none. ``score``:
    against its image, if it has one.
    """

    words: list[tuple[str, bool | None]]
    logprob: tuple[float, float] | None
    score: float | None = None


@dataclass(frozen=True)
class Card:
    """One image on the page. ``kept``: columns that stood beside it in the input."""

    image_id: str
    uri: str
    picture: Picture
    captions: list[Said]
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    looks: Sequence[Look] = ()
    window: str = ""  # the encoder's part of the picture, as CSS ``background-size``
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """Cards under a heading. ``name`` is its anchor."""

    name: str
    title: str
    note: str
    cards: list[Card]


@dataclass(frozen=True)
class FailureKind:
    """Failures of one stage and code, with a few examples as (image id, message)."""

    stage: str
    code: str
    count: int
    transient: bool
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """A drawing with a title; ``legend`` names its lines in order."""

    title: str
    drawing: Markup
    legend: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All data of the template."""

    title: str
    made: str
    tiles: Mapping[str, str]
    sections: list[Section]
    scores: Mapping[str, str]
    charts: list[Chart]
    curves: list[Chart]
    frequent: list[tuple[str, int]]
    failures: list[FailureKind]
    facts: Mapping[str, Mapping[str, str]]
    note: str = ""
    has_references: bool = False


def render(page: Page) -> str:
    """Renders the page as one HTML document without scripts or network requests."""
    loader = PackageLoader("captionbeam.jobs", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template("report.html.j2").render(page=page)


def make_card(
    row: Row,
    picture: Picture,
    preprocess: Mapping[str, Any] | None,
    references: Sequence[str] = (),
    scores: Mapping[str, float] | None = None,
) -> Card:
    """Returns one row as a card. ``preprocess``: the encoder's, which determines the visible part of the picture."""
    known = {word for words in tokenize(references) for word in words} if references else None
    captions = [_said(caption, known) for caption in row.captions]
    best = row.captions[0] if row.captions else {"tokens": [], "attention": None}
    seen = looks(best.get("tokens", ()), best.get("attention"))
    window = seen_window(picture, preprocess or {"size": 1, "resize": 1}) if seen else ""
    return Card(row.image_id, row.uri, picture, captions, references, scores or {}, seen, window, row.kept)


def failure_kinds(failures: pa.Table) -> list[FailureKind]:
    """Groups failure rows (``captionbeam.schemas.formats.arrow.FAILURES``) by stage and code, most frequent first."""
    kinds = []
    for group in failures.group_by(["stage", "code"]).aggregate([([], "count_all")]).to_pylist():
        stage, code = group["stage"], group["code"]
        same = pc.and_(pc.equal(failures.column("stage"), stage), pc.equal(failures.column("code"), code))
        rows = failures.filter(same).slice(0, EXAMPLES).to_pylist()
        examples = [(row["image_id"], row["message"]) for row in rows]
        kinds.append(FailureKind(stage, code, group["count_all"], is_transient(code), examples))
    return sorted(kinds, key=lambda kind: (-kind.count, kind.stage, kind.code))


def frequent_captions(briefs: Iterable[Brief], most: int = 8) -> list[tuple[str, int]]:
    """Returns the captions of more than one image, with their counts."""
    counts = Counter(brief.text for brief in briefs)
    return [(text, count) for text, count in counts.most_common(most) if count > 1]


def caption_charts(briefs: Iterable[Brief], cider: Iterable[float]) -> list[Chart]:
    """Returns histograms over all captions, and over the scored ones."""
    lengths = [len(brief.text.split()) for brief in briefs]
    scores = list(cider)
    charts = [Chart("Words a caption", histogram(lengths, LENGTH_BINS, "words"))] if lengths else []
    if scores:
        charts.insert(0, Chart("CIDEr of single images", histogram(scores, CIDER_BINS, "CIDEr")))
    return charts


def training_curves(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Returns charts of a bundle's history over epochs, with the best epoch (highest CIDEr) marked."""
    if not history:
        return []
    best = best_epoch(history)
    groups = {
        "Loss, nats a word": {"training": "train_loss", "validation": "val_loss"},
        "CIDEr on val": {"CIDEr": "CIDEr"},
        "Right next words": {"validation": "val_accuracy"},
        "BLEU-4 and ROUGE-L": {"BLEU-4": "Bleu_4", "ROUGE-L": "ROUGE_L"},
    }
    charts = [_curves(title, names, history, best["epoch"]) for title, names in groups.items()]
    return [chart for chart in charts if chart.drawing]


def _curves(title: str, names: Mapping[str, str], history: Sequence[Mapping[str, Any]], best: float) -> Chart:
    lines = {
        label: [(entry["epoch"], float(entry[key])) for entry in history if entry.get(key) is not None]
        for label, key in names.items()
    }
    lines = {label: points for label, points in lines.items() if points}
    return Chart(title, line_chart(lines, best), list(lines) if len(lines) > 1 else [])


def _said(caption: Mapping[str, Any], known: set[str] | None) -> Said:
    words = caption["text"].split()
    tokens = tokenize(words) if known is not None else []
    hits = [known.issuperset(one) for one in tokens] if known is not None else [None] * len(words)
    whole = caption.get("logprob")
    logprob = None if whole is None else (whole, whole / (len(caption["tokens"]) + 1))
    return Said(list(zip(words, hits, strict=True)), logprob, caption.get("score"))
