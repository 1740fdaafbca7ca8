"""Builds the page's data from a captions store and references."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from captionbeam.capmodel.bundles.contents import HISTORY, Manifest, read_checked, read_manifest
from captionbeam.capmodel.metrics import variety
from captionbeam.capmodel.specs import complete_spec
from captionbeam.jobs.evaluate import TITLES
from captionbeam.jobs.reporting.page import (
    Card,
    Page,
    Section,
    caption_charts,
    failure_kinds,
    frequent_captions,
    make_card,
    training_curves,
)
from captionbeam.jobs.reporting.pictures import read_pictures
from captionbeam.jobs.reporting.rows import Brief, Choice, Row, choose, read_briefs, read_rows
from captionbeam.jobs.reporting.scoring import Pairs, join_references
from captionbeam.jobs.ui.progress import Progress
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.tokens.caption_files import Reference
from captionbeam.schemas import Store
from captionbeam.schemas.errors import BundleError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import now

_MAIN_SCORES = {"CIDEr": "CIDEr", "BLEU-4": "Bleu_4", "ROUGE-L": "ROUGE_L"}
_REQUEST = ("system", "max_new_tokens", "temperature", "seed")
FILMS = 6  # number of images shown word by word


def make_page(
    store: Store,
    column: str,
    references: Sequence[Sequence[Reference]] | None,
    images: int,
    reading: FetchOptions,
) -> Page:
    """Returns the page of the captions in one ``column`` of ``store``, with a sample of ``images``.

    ``references`` are those of each file.
    """
    briefs, bundle = read_briefs(store, column), _bundle(store)
    pairs, evaluation = Pairs({}, {}, [], []), None
    ranking = {image: [brief.certainty] for image, brief in briefs.items() if brief.certainty is not None}
    if references is not None:
        pairs = join_references({image: brief.text for image, brief in briefs.items()}, *references)
        evaluation = pairs.evaluate()  # ROUGE-L ranks the many images with a CIDEr of 0
        ranking = {image: [one["CIDEr"], one["ROUGE_L"]] for image, one in evaluation.images.items()}
    scores = evaluation.scores if evaluation else {}
    own = evaluation.images if evaluation else {}
    choice = choose(briefs, ranking, images)
    cards = _cards(read_rows(store, column, choice.ids), choice, pairs, own, bundle, reading)
    name = store.url.rsplit("/", 1)[-1]
    return Page(
        title=name if len(store.columns) == 1 else f"{name}: {column}",
        made=now(),
        tiles=_tiles(store, briefs, scores),
        sections=_sections(choice, cards, references is not None),
        scores=_scores(pairs, scores),
        charts=caption_charts(briefs.values(), [one["CIDEr"] for one in own.values()]),
        curves=training_curves(_history(store, bundle)),
        frequent=frequent_captions(briefs.values()),
        failures=failure_kinds(store.failures()),
        facts=_facts(store, bundle),
        note="; ".join(pairs.notes()),
        has_references=references is not None,
    )


def _cards(
    rows: Mapping[str, Row],
    choice: Choice,
    pairs: Pairs,
    scores: Mapping[str, Mapping[str, float]],
    bundle: Manifest | None,
    reading: FetchOptions,
) -> dict[str, Card]:
    preprocess = complete_spec((bundle.encoder if bundle else None) or {}).get("preprocess")
    pictures = read_pictures([rows[image].uri for image in choice.ids], reading)
    cards = {}
    with Progress("report", len(choice.ids), "pictures") as progress:
        for image, picture in zip(choice.ids, pictures, strict=True):
            given = pairs.references.get(image, ())
            cards[image] = make_card(rows[image], picture, preprocess, given, scores.get(image))
            progress.update(len(cards))
    return cards


def _sections(choice: Choice, cards: Mapping[str, Card], has_references: bool) -> list[Section]:
    seen = [image for image in choice.sample if cards[image].looks and cards[image].picture.data_uri][:FILMS]
    rest = [image for image in choice.sample if image not in seen]
    measure = "CIDEr against the references" if has_references else "mean log-probability of a token"
    ends = ("Best", "Worst") if has_references else ("Surest", "Least sure")
    sections = [
        (
            "looks",
            "Where the model looked",
            "The attention weights of each word: bright cells have the highest weight, on a scale for each word.",
            seen,
        ),
        ("sample", "A sample", "Drawn by a hash of the images' ids: the same ones each time.", rest),
        ("best", f"{ends[0]} {len(choice.best)}", f"Highest {measure}.", choice.best),
        ("worst", f"{ends[1]} {len(choice.worst)}", f"Lowest {measure}.", choice.worst),
    ]
    return [
        Section(name, title, note, [cards[image] for image in ids])
        for name, title, note, ids in sections
        if ids
    ]


def _tiles(store: Store, briefs: Mapping[str, Brief], scores: Mapping[str, float]) -> dict[str, str]:
    counts = variety([brief.text for brief in briefs.values()])
    main = {name: f"{scores[key]:.3f}" for name, key in _MAIN_SCORES.items() if key in scores}
    return {
        **main,
        "captioned": f"{store.count():,}",
        "failed": f"{store.totals['failed']:,}",
        "distinct captions": f"{counts['distinct_share']:.0%}",
        "words a caption": f"{counts['mean_words']:.1f}",
        "vocabulary": f"{counts['vocabulary']:,}",
    }


def _scores(pairs: Pairs, scores: Mapping[str, float]) -> dict[str, str]:
    if not scores:
        return {}
    found = {title: f"{scores[name]:.4f}" for name, title in TITLES.items() if name in scores}
    count = sum(map(len, pairs.references.values()))
    return {**found, "images scored": f"{len(pairs.captions):,}", "references": f"{count:,}"}


def _bundle(store: Store) -> Manifest | None:
    """Returns the manifest of the captions' bundle from the store; None if the store has none."""
    try:
        return read_manifest(_bundle_url(store))
    except BundleError:
        return None


def _bundle_url(store: Store) -> str:
    return files.join(store.models_url, str(store.spec.get("bundle")))


def _history(store: Store, bundle: Manifest | None) -> list[dict[str, Any]]:
    if bundle is None or HISTORY not in bundle.files:
        return []
    return json.loads(read_checked(_bundle_url(store), bundle, HISTORY))


def _facts(store: Store, bundle: Manifest | None) -> dict[str, dict[str, str]]:
    """Returns details of the store, its captioner and its newest run."""
    spec, encoder = complete_spec(store.spec), complete_spec((bundle.encoder if bundle else None) or {})
    folder = files.join(store.url, "plans", store.snapshot.run)
    record, totals = _json(files.join(folder, "run.json")), _json(files.join(folder, "totals.json"))
    groups: dict[str, dict[str, Any]] = {
        "store": {
            "url": store.url,
            "snapshot": store.snapshot_id,
            "published": store.snapshot.created,
            "fingerprint": store.fingerprint,
            "rows": f"{store.totals['rows']:,}",
            "failures": f"{store.totals['failed']:,}",
            "shards": f"{store.totals['shards']:,}",
            "bytes": f"{store.totals['bytes']:,}",
        },
        "captioner": {
            "bundle": spec.get("bundle"),
            "transformers": spec.get("transformers"),
            "architecture": spec.get("model_type"),
            "encoder": encoder.get("name") or encoder.get("imported"),
            **{f"encoder, {name}": value for name, value in encoder.get("preprocess", {}).items()},
            **{f"decoding, {name}": value for name, value in spec.get("decode", {}).items()},
            "precision": spec.get("precision"),
            "model": spec.get("endpoint"),
            **{f"prompt, {name}": own["text"] for name, own in spec.get("prompts", {}).items()},
            **{name.replace("_", " "): spec.get(name) for name in _REQUEST},
        },
        "run": {
            "run": record.get("run"),
            "started": record.get("started"),
            "finished": totals.get("finished"),
            "images": totals.get("images"),
            "images a second": totals.get("images_per_second"),
            **record.get("options", {}),
        },
        "versions": record.get("versions", {}),
    }
    shown = {group: {k: _shown(v) for k, v in facts.items()} for group, facts in groups.items()}
    return {
        group: {k: v for k, v in facts.items() if v} for group, facts in shown.items() if any(facts.values())
    }


def _json(url: str) -> dict[str, Any]:
    return files.read_json(url) if files.exists(url) else {}


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
