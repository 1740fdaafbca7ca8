"""Rows of images that only seem to have changed are copied: bit for bit, without the model, whatever the format."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.jobs.cli import main
from captionbeam.pipelines.bulk.compare import (
    CompareStore,
    NameSources,
    compare_image,
    read_counts,
    write_counts,
    write_gone,
)
from captionbeam.pipelines.bulk.plan import PlanShards, planned_shards, read_shard, write_plan
from captionbeam.pipelines.bulk.publish import PublishSnapshot, publish
from captionbeam.pipelines.bulk.run import moved_sources, start_run
from captionbeam.pipelines.bulk.skip import SkipDone, _index_files, read_base
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.pipelines.maintenance.history import describe
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.pipelines.workers.engine import Engine
from captionbeam.pipelines.workers.shards import process_shard
from captionbeam.pipelines.workers.transforms import ProcessShards
from captionbeam.schemas import Store
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.int8 import stored_columns
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import FIELD, Mean, fetch_from
from tests.builders.data.stores import Echo, answer, as_item

PROMPTS = EndpointSpec("m", {"a": {"text": "?"}, "b": {"text": "?", "schema": {"enum": [*range(9), None]}}})
ITEMS = {f"{n}.jpg": bytes([n, n + 3]) for n in range(1, 8)}
PROCESSED: list[str] = []


class Counting(Mean):
    """``salt`` is added to every feature: what the model would give today."""

    salt = 0.0

    def run(self, batch, image_ids):
        PROCESSED.extend(image_ids)
        return {"grid": super().run(batch, image_ids)["grid"] + np.float16(self.salt)}


class CountingCodes(Counting):
    schema = stored_columns("grid", (2, 2, 1), "int8")


class CountingEcho(Echo):
    def run(self, batch, image_ids):
        PROCESSED.extend(image_ids)
        return super().run(batch, image_ids)


@dataclass(frozen=True)
class CountingJob:
    what: str
    salt: float

    def load(self, threads, processes=1):
        processor = {"int8": CountingCodes, "captions": Captions, "answers": Answers}.get(
            self.what, Counting
        )()
        processor.salt = self.salt
        return processor


class Captions(CountingEcho):
    def __init__(self):
        super().__init__(arrow.captions_field())


class Answers(CountingEcho):
    def __init__(self):
        super().__init__(*(prompt.field for prompt in prompts_of(PROMPTS)))


def ref(name, version="v1", **more):
    return ImageRef(name, f"/images/{name}", "/images", version, **more)


def launch(folder, what, operation="refresh", spec=None):
    fields = {"captions": arrow.captions_field(), "answers": prompts_of(PROMPTS)[0].field}
    field, file_format = fields.get(what, FIELD), "hdf5" if what == "hdf5" else "parquet"
    kind = "captions" if what in fields else "features"
    spec = spec or (spec_of(PROMPTS) if what == "answers" else {"model": what})
    return start_run(
        f"{folder}/store", kind, spec, fingerprint(spec), field, file_format, operation=operation
    )


def refresh(folder, refs, items, what="parquet", salt=0.0):
    """A whole run, as ``run_on_beam`` does it; gives the store, and how many images became what."""
    PROCESSED.clear()
    run = launch(folder, what)
    write_plan(run, "loose-0", judged(run, refs), 3)
    engine = Engine(CountingJob(what, salt).load(1))
    for shard in planned_shards(run):
        process_shard(shard.shard_id, read_shard(shard), engine, run, fetch_from(items))
    publish(run)
    return Store.open(run.url), read_counts(run)


def run_on_beam(folder, refs, items, operation="refresh", salt=0.0):
    PROCESSED.clear()
    run = launch(folder, "parquet", operation)

    def build(pipeline):
        images = pipeline | beam.Create(refs).with_output_types(ImageRef)
        if operation == "refresh":
            todo, _, written = images | CompareStore(run, NameSources(["/images"]))
        else:
            todo, _ = images | SkipDone(run)
            written = pipeline | "Nothing" >> beam.Create([])
        shards = todo | PlanShards(run, 3)
        reports = shards | ProcessShards(run, CountingJob("parquet", salt), fetch_from(items))
        _ = (reports, written) | beam.Flatten() | beam.Map(lambda _: 1) | PublishSnapshot(run)

    run_pipeline([], build)
    return Store.open(run.url), read_counts(run)


def rows(store):
    """Each live image's columns, and its version."""
    found = [row for batch in store.scan() for row in batch.to_pylist()]
    assert len(found) == len({row["image_id"] for row in found})
    return {row.pop("image_id"): (row.pop("version"), [row[name] for name in store.columns]) for row in found}


def reused(store):
    return sum(commit.counts.get("reused", 0) for commit in commits(store))


def commits(store):
    return layout.load_commits(store.url, sorted(layout.committed_shards(store.url)))


def counted(**some):
    return {
        **dict.fromkeys(("new", "changed", "again", "moved", "columns", "unchanged", "gone", "known"), 0),
        **some,
    }


@pytest.mark.parametrize("what", ["parquet", "hdf5", "int8", "captions", "answers"])
def test_touched_images_are_copied_and_changed_ones_computed(tmp_path, what):
    items = ITEMS
    if what == "captions":
        items = {name: as_item([{"text": name, "logprob": -1.5, "tokens": [name, "."]}]) for name in ITEMS}
    if what == "answers":
        items = {
            name: as_item({one.column: [answer(text, one)] for one in prompts_of(PROMPTS)})
            for name, text in zip(ITEMS, ("1", "2", "3", "4", "null", "6", "7"), strict=True)
        }
    before = rows(refresh(tmp_path, [ref(name) for name in items], items, what)[0])
    assert sorted(PROCESSED) == sorted(items)

    changed = {**items, "3.jpg": items["3.jpg"] + b" "}
    touched = [ref(name, "v1" if name == "1.jpg" else "v2") for name in items]
    store, counts = refresh(tmp_path, touched, changed, what, salt=1.0)
    assert PROCESSED == ["3.jpg"], "the model is not asked again"
    assert counts == counted(changed=6, unchanged=1, known=7)
    assert reused(store) == 5
    after = rows(store)
    assert {name: value for name, (_, value) in after.items() if name != "3.jpg"} == {
        name: value for name, (_, value) in before.items() if name != "3.jpg"
    }
    assert {name: version for name, (version, _) in after.items()} == {
        name: "v1" if name == "1.jpg" else "v2" for name in items
    }
    assert (store.totals["rows"], store.totals["failed"]) == (7, 0)
    assert verify(store.url).problems == []

    store, counts = refresh(tmp_path, touched, changed, what)
    assert (PROCESSED, store.snapshot_id, counts) == ([], 2, counted(unchanged=7, known=7))


@pytest.mark.parametrize("what", ["parquet", "captions"])
def test_rows_under_other_ids_are_copied(tmp_path, what):
    """What an image takes over with --adopt-ids; its id in a row of captions is the new one."""
    items = ITEMS
    if what == "captions":
        items = {name: as_item([{"text": name, "logprob": -1.5, "tokens": [name, "."]}]) for name in ITEMS}
    before = rows(refresh(tmp_path, [ref(name) for name in items], items, what)[0])
    PROCESSED.clear()
    run = launch(tmp_path, what)
    base = [found for task in _index_files(run) for found in read_base(*task)]
    renamed = [ref(name)._replace(image_id=f"P{name}", replaces=row.address) for name, row in base]
    write_plan(run, "loose-0", renamed, 3)
    for shard in planned_shards(run):
        process_shard(
            shard.shard_id,
            read_shard(shard),
            Engine(CountingJob(what, 1.0).load(1)),
            run,
            fetch_from({f"P{name}": item for name, item in items.items()}),
        )
    publish(run)
    assert PROCESSED == []
    assert rows(Store.open(run.url)) == {f"P{name}": row for name, row in before.items()}


def judged(run, refs):
    """What a refresh of ``refs`` has to do; what is gone is noted."""
    images, base = defaultdict(list), defaultdict(list)
    for one in refs:
        images[one.image_id].append(one)
    for task in _index_files(run):
        for name, row in read_base(*task):
            base[name].append(row)
    verdicts = {
        name: compare_image(images[name], base[name], {"/images"}) for name in sorted({*images, *base})
    }
    write_gone("000000", [(place, name) for name in verdicts for place in verdicts[name].gone], run)
    write_counts(
        Counter(kind for one in verdicts.values() for kind in (one.kind, "known" * one.known) if kind), run
    )
    return [verdict.todo for verdict in verdicts.values() if verdict.todo is not None]


NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
IMAGES = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1)
NIGHT = st.tuples(IMAGES, st.integers(1, 3), st.sampled_from(["publish", "killed"]))


@given(st.lists(NIGHT, min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_whatever_was_touched_or_changed_each_image_has_its_own_row_once(nights):
    """``(content, touch)`` by image."""
    with tempfile.TemporaryDirectory() as folder:
        for images, shard_size, fate in nights:
            refs = [ref(name, str(images[name])) for name in images]
            items = {name: bytes([10 * images[name][0] + NAMES.index(name)]) for name in images}
            run = launch(folder, "parquet")
            write_plan(run, "loose-0", judged(run, refs), shard_size)
            shards = planned_shards(run)
            for shard in shards[: len(shards) // 2] if fate == "killed" else shards:
                process_shard(shard.shard_id, read_shard(shard), Engine(Mean(), 1), run, fetch_from(items))
            if fate == "publish":
                publish(run)
                store = Store.open(run.url)
                assert {name: (v, g[0]) for name, (v, (g,)) in rows(store).items()} == {
                    one.image_id: (one.version, items[one.image_id][0]) for one in refs
                }
                assert store.totals["rows"] == len(refs)
                assert verify(store.url).problems == []
                assert judged(launch(folder, "parquet"), refs) == []


def test_sources_move_with_their_store_until_a_run_has_published_there(tmp_path):
    store, _ = refresh(tmp_path / "work", [ref("1.jpg")], ITEMS)
    shutil.copytree(tmp_path / "work", tmp_path / "copy")
    url, photos = str(tmp_path / "copy/store"), str(tmp_path / "copy/photos")
    assert moved_sources(store.url, [photos]) == {}
    assert moved_sources(url, [photos]) == {str(tmp_path / "work/photos"): photos}
    assert moved_sources(url, [photos, str(tmp_path / "work/photos")]) == {}
    launch(tmp_path / "copy", "parquet")
    assert moved_sources(url, [photos]) == {str(tmp_path / "work/photos"): photos}, (
        "killed before it published"
    )
    refresh(tmp_path / "copy", [ref("2.jpg")], ITEMS)
    assert moved_sources(url, [photos]) == {}


def test_copied_int8_rows_have_no_rounding_error_of_their_own(tmp_path, monkeypatch, capsys):
    """The originals of copied codes are not known: their error is neither 0 nor that of the other rows."""
    monkeypatch.setattr(
        f"{__name__}.launch", functools.partial(launch, spec={"model": "int8", "dtype": "int8"})
    )

    def of_run(store):
        run = store.snapshot.run
        return [(commit.rows, commit.rounding) for commit in commits(store) if commit.run == run]

    store, _ = refresh(tmp_path, [ref("1.jpg"), ref("2.jpg")], ITEMS, "int8")
    ((rows, first),) = of_run(store)
    assert (rows, first["rows"], first["max_value"]) == (2, 2, 3.5)
    said = shown(store, capsys)
    assert "off by" in said
    assert "the others were copied" not in said

    store, _ = refresh(tmp_path, [ref("1.jpg", "v2"), ref("2.jpg", "v2")], ITEMS, "int8", salt=1.0)
    assert of_run(store) == [(2, {})]
    assert (describe(store)["rounding"]["rows"], describe(store)["rounding"]["stored_rows"]) == (2, 4)
    assert "(over 2 of 4 rows; the others were copied)" in shown(store, capsys)

    items = {**ITEMS, "1.jpg": bytes([9, 9])}
    store, _ = refresh(tmp_path, [ref("1.jpg", "v3"), ref("2.jpg", "v3")], items, "int8")
    ((rows, mixed),) = of_run(store)
    assert (rows, mixed["rows"], mixed["max_value"]) == (2, 1, 9.0)


def test_rows_whose_file_is_gone_are_computed_again(tmp_path):
    store, _ = refresh(tmp_path, [ref(name) for name in ITEMS], ITEMS)
    run = launch(tmp_path, "parquet")
    write_plan(run, "loose-0", judged(run, [ref(name, "v2") for name in ITEMS]), 9)
    for path in Path(store.url, "data").iterdir():
        path.unlink()
    PROCESSED.clear()
    (shard,) = planned_shards(run)
    process_shard(shard.shard_id, read_shard(shard), Engine(Counting()), run, fetch_from(ITEMS))
    assert sorted(PROCESSED) == sorted(ITEMS)


def shown(store, capsys):
    assert main(["store", "show", store.url]) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())
