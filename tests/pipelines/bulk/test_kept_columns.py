"""Kept columns that change: a run writes columns files only, and fetches and computes nothing."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.pipelines.bulk.changed_columns import RewriteColumns, read_rewritten, rewrite_columns
from captionbeam.pipelines.bulk.compare import (
    CompareStore,
    Comparison,
    NameSources,
    compare_image,
    read_counts,
    write_counts,
    write_gone,
)
from captionbeam.pipelines.bulk.kept_schema import write_kept_schema
from captionbeam.pipelines.bulk.plan import PlanShards, write_plan
from captionbeam.pipelines.bulk.publish import publish
from captionbeam.pipelines.bulk.skip import SkipDone, _index_files, changed_columns, decide, read_base
from captionbeam.pipelines.maintenance.compact import compact
from captionbeam.pipelines.maintenance.history import roll_back
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.pipelines.workers.transforms import ProcessShards
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats.kept import Types, packed, packed_cells
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.store import layout
from tests.builders.data.runs import Mean, features_run
from tests.builders.data.stores import commit_all

PROCESSED: list[str] = []
PRICES = {f"{number}.jpg": {"price": number, "shop": "north"} for number in range(10)}


class Counting(Mean):
    def run(self, batch, image_ids):
        PROCESSED.extend(image_ids)
        return super().run(batch, image_ids)


class CountingJob:
    def load(self, threads, processes=1):
        return Counting()


def fetch(refs):
    PROCESSED.extend(f"fetched {ref.image_id}" for ref in refs)
    return [ImageError("not_found", "fetch", "gone") if "bad" in ref.image_id else b"\1" for ref in refs]


def start(folder, images, operation="add", source="/list.csv", keeps=True, pack=packed, versions=None):
    """A new run over ``images``, id to columns; gives their references and the columns' types too."""
    PROCESSED.clear()
    request = {"job": "encode", "options": {}, "sources": [{"source": source}]}
    made = features_run(folder, operation=operation, keeps=keeps, request=request)
    types, refs = Types(), []
    for name, values in images.items():
        text = pack(values) if keeps else ""
        types.add(pa.schema([(column, pa.null()) for column in values]))
        types.see(text)
        version = (versions or {}).get(name, "v1")
        refs.append(ImageRef(name, f"/images/{name}", source, version, columns=text))
    return made, refs, types.schema()


def prepare(folder, images, operation="add", **how):
    """A whole run that is not published, without Beam."""
    made, refs, types = start(folder, images, operation, **how)
    write_kept_schema(made, types)
    base, todo, changes = defaultdict(list), [], defaultdict(list)
    for task in _index_files(made):
        for name, row in read_base(*task):
            base[name].append(row)
    listed, sources = {ref.image_id: [ref] for ref in refs}, {ref.source for ref in refs}
    counts, gone = Counter(), []
    for name in sorted({*listed, *base} if operation == "refresh" else listed):
        if operation == "refresh":
            one = compare_image(listed.get(name, []), base[name], sources, keeps=made.keeps)
            counts[one.kind] += 1
            gone += [(place, name) for place in one.gone]
        else:
            ref = decide(listed[name], base[name])
            found = (
                changed_columns(listed[name][0], base[name], sources) if made.keeps and ref is None else []
            )
            one = Comparison("", True, ref, columns=found)
        todo += [one.todo] if one.todo is not None else []
        for change in one.columns:
            changes[change.address.split("/")[0]].append(change)
    write_gone("000000", gone, made)
    write_counts(counts, made)
    write_plan(made, "loose-0", todo, 4)
    commit_all(made, Counting(), fetch)
    for shard, several in changes.items():
        rewrite_columns(made, shard, several)
    return made


def prepare_on_beam(folder, images, operation="add", **how):
    made, refs, types = start(folder, images, operation, **how)

    def build(pipeline):
        after = pipeline | "Types" >> beam.Create([1]) | beam.Map(lambda _: write_kept_schema(made, types))
        found = pipeline | beam.Create(refs).with_output_types(ImageRef)
        if operation == "refresh":
            todo, changes, _ = found | CompareStore(made, NameSources([refs[0].source]))
        else:
            todo, changes = found | SkipDone(made)
        _ = todo | PlanShards(made, 4, after) | ProcessShards(made, CountingJob(), fetch)
        _ = changes | RewriteColumns(made, after)

    run_pipeline([], build)
    return made


def run(folder, images, operation="add", on_beam=False, **how):
    """A whole run; gives the store, which is sound."""
    made = (prepare_on_beam if on_beam else prepare)(folder, images, operation, **how)
    publish(made)
    assert verify(made.url).problems == []
    return Store.open(made.url)


def kept(store):
    """Each image's kept columns, of rows and failures."""
    found = {}
    for batch in [
        *store.scan(["image_id", *store.kept.names]),
        store.failures().select(["image_id", *store.kept.names]),
    ]:
        for row in batch.to_pylist():
            assert row["image_id"] not in found
            found[row.pop("image_id")] = row
    return found


def stored(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def priced(price, *names):
    return {name: {**values, "price": price} if name in names else values for name, values in PRICES.items()}


@pytest.mark.parametrize("operation", ["add", "refresh"])
def test_changed_prices_write_columns_files_only(tmp_path, operation):
    run(tmp_path, PRICES)
    assert len([name for name in PROCESSED if "fetched" in name]) == 10
    before = stored(tmp_path / "store")
    store = run(tmp_path, priced(99, "3.jpg"), operation, on_beam=True)
    assert PROCESSED == []
    assert (store.snapshot_id, store.snapshot.operation) == (2, operation)
    new = {name.split("/")[0] for name in stored(tmp_path / "store") - before}
    assert new == {"columns", "manifests", "plans", "snapshots"}
    assert len(stored(tmp_path / "store/columns")) == 4, "one shard of three is written anew"
    assert kept(store) == priced(99, "3.jpg")
    assert kept(Store.open(store.url, 1)) == PRICES, "an earlier snapshot keeps its own"
    assert {**store.totals, "bytes": 0} == {**Store.open(store.url, 1).totals, "bytes": 0}
    again = run(tmp_path, priced(99, "3.jpg"), operation)
    assert (again.snapshot_id, PROCESSED) == (2, [])


def test_a_refresh_counts_images_with_changed_columns(tmp_path):
    run(tmp_path, PRICES)
    made = prepare_on_beam(tmp_path, {**priced(5, "1.jpg", "2.jpg"), "new.jpg": {"price": 1}}, "refresh")
    counts = read_counts(made)
    assert (counts["columns"], counts["unchanged"], counts["new"], counts["gone"]) == (2, 8, 1, 0)


def test_new_changed_and_gone_images_beside_changed_columns(tmp_path):
    run(tmp_path, PRICES)
    images = {**priced(99, "3.jpg", "4.jpg"), "new.jpg": {"price": 7}}
    del images["0.jpg"]
    store = run(tmp_path, images, "refresh", versions={"4.jpg": "v2"})
    assert sorted(name for name in PROCESSED if "fetched" in name) == ["fetched 4.jpg", "fetched new.jpg"]
    assert kept(store) == {**images, "new.jpg": {"price": 7, "shop": None}}


@pytest.mark.parametrize("operation", ["add", "refresh"])
def test_a_store_without_columns_gets_them_without_a_fetch(tmp_path, operation):
    images = {**PRICES, "bad.jpg": {"price": 3, "shop": "south"}}
    assert not len(run(tmp_path, images, keeps=False).kept)
    store = run(tmp_path, images, operation)
    assert PROCESSED == []
    assert kept(store) == images
    assert store.kept == pa.schema([("price", pa.int64()), ("shop", pa.string())])


def test_failures_columns_change_too(tmp_path):
    run(tmp_path, {**PRICES, "bad.jpg": {"price": 3}})
    store = run(tmp_path, {**PRICES, "bad.jpg": {"price": 4}})
    assert PROCESSED == []
    assert store.failures().to_pylist()[0]["price"] == 4


def test_a_complete_refresh_drops_columns_that_are_kept_no_more_and_an_encode_drops_none(tmp_path):
    run(tmp_path, PRICES)
    fewer = {name: {"shop": values["shop"]} for name, values in PRICES.items()}
    assert kept(run(tmp_path, {"0.jpg": {"shop": "south"}})) == {
        **PRICES,
        "0.jpg": {"price": 0, "shop": "south"},
    }
    store = run(tmp_path, fewer, "refresh")
    assert store.kept.names == ["shop"]
    assert kept(store) == fewer
    assert kept(Store.open(store.url, 1)) == PRICES
    other = run(tmp_path, {"b": {"price": 1.5}}, source="/other.csv")
    assert other.kept.names == ["price", "shop"]
    assert run(tmp_path, fewer, "refresh").kept.names == ["price", "shop"], "another source may have it"


def cells(images):
    """The text of rows of CSV."""
    return packed_cells({name: None if value is None else str(value) for name, value in images.items()})


def test_types_become_wider_and_rows_that_did_not_change_are_read_in_them(tmp_path):
    run(tmp_path, PRICES, pack=cells)
    store = run(tmp_path, priced("2.5", "3.jpg"), pack=cells)
    assert store.kept.field("price").type == pa.float64()
    assert kept(store)["4.jpg"]["price"] == 4.0
    store = run(tmp_path, priced("sold", "3.jpg"), pack=cells)
    assert store.kept.field("price").type == pa.string()
    assert {kept(store)[name]["price"] for name in ("3.jpg", "4.jpg")} == {"sold", "4"}


def test_types_become_narrower_when_a_refresh_finds_other_values(tmp_path):
    run(tmp_path, priced("sold", "3.jpg"), pack=cells)
    store = run(tmp_path, PRICES, operation="refresh", pack=cells)
    assert (PROCESSED, store.kept.field("price").type) == ([], pa.int64())
    assert kept(store) == PRICES


def test_types_also_hold_the_values_of_another_writer_and_of_an_interrupted_run(tmp_path):
    run(tmp_path, PRICES, pack=cells)
    made = prepare(tmp_path, PRICES, operation="refresh", pack=cells)
    run(tmp_path, {"new.jpg": {"price": "dear", "shop": "x"}}, pack=cells, source="/other.csv")
    publish(made)
    assert kept(Store.open(made.url))["new.jpg"]["price"] == "dear"
    prepare(tmp_path, {"last.jpg": {"weight": "2.5"}}, pack=cells, source="/third.csv")
    store = run(tmp_path, PRICES, operation="refresh", pack=cells)
    assert store.kept.field("weight").type == pa.float64()
    assert kept(store)["last.jpg"]["weight"] == 2.5


def test_a_listing_without_any_value_of_a_column_leaves_its_type(tmp_path):
    assert run(tmp_path, {"a": {"price": None, "shop": "x"}}, pack=cells).kept.names == ["price", "shop"]
    store = run(tmp_path, {"a": {"price": 2, "shop": "x"}}, pack=cells)
    assert (store.kept.field("price").type, kept(store)["a"]["price"]) == (pa.int64(), 2)
    more = {"a": {"price": 2, "shop": "y"}, "b": {"price": None, "shop": "x"}}
    store = run(tmp_path, more, pack=cells)
    assert store.kept.field("price").type == pa.int64()
    assert kept(store) == more


def test_rows_of_another_source_keep_their_columns(tmp_path):
    run(tmp_path, PRICES)
    store = run(tmp_path, priced(99, "3.jpg"), source="/other.csv")
    assert (store.snapshot_id, PROCESSED) == (1, [])


def test_columns_of_images_that_a_killed_run_left_unpublished(tmp_path):
    prepare(tmp_path, PRICES)
    store = run(tmp_path, priced(99, "3.jpg"))
    assert (store.snapshot_id, PROCESSED) == (1, [])
    assert kept(store) == priced(99, "3.jpg")
    assert store.totals["rows"] == 10


def test_a_run_killed_before_publishing_leaves_the_store_as_it_was_and_the_next_one_finishes(tmp_path):
    run(tmp_path, PRICES)
    killed = prepare(tmp_path, priced(99, "3.jpg"))
    assert [one.images for one in read_rewritten(killed)] == [1]
    assert verify(killed.url).problems == []
    assert kept(Store.open(killed.url)) == PRICES
    assert kept(run(tmp_path, priced(99, "3.jpg"))) == priced(99, "3.jpg")


def test_a_repeated_step_uses_what_was_written_first(tmp_path):
    run(tmp_path, PRICES)
    made = prepare(tmp_path, priced(99, "3.jpg"))
    first = read_rewritten(made)

    def build(pipeline):
        changes = pipeline | beam.Create([(f"{first[0].shard}/0", packed({"price": 1}))])
        _ = changes | RewriteColumns(made, pipeline | "After" >> beam.Create([1]))

    run_pipeline([], build)
    assert read_rewritten(made) == first


def test_of_two_runs_that_rewrite_the_same_shard_the_next_run_mends_what_the_later_one_wrote(tmp_path):
    run(tmp_path, PRICES)
    first = prepare(tmp_path, priced(50, "3.jpg"))
    second = prepare(tmp_path, priced(60, "4.jpg"))
    publish(first)
    assert publish(second).id == 2, "the shard has other columns by now"
    assert kept(Store.open(first.url)) == priced(50, "3.jpg")
    store = run(tmp_path, priced(60, "4.jpg"))
    assert kept(store) == priced(60, "4.jpg")
    assert PROCESSED == []


def test_runs_that_rewrite_different_shards_are_both_published(tmp_path):
    run(tmp_path, PRICES)
    first, second = (prepare(tmp_path, {name: {"price": 50}}) for name in ("0.jpg", "9.jpg"))
    publish(first)
    assert publish(second).id == 3
    assert verify(first.url).problems == []
    assert {kept(Store.open(first.url))[name]["price"] for name in ("0.jpg", "9.jpg")} == {50}


def test_shards_that_were_compacted_meanwhile_get_their_columns_from_the_next_run(tmp_path):
    run(tmp_path, PRICES)
    made = prepare(tmp_path, priced(99, "3.jpg"))
    compact(made.url, 0.5, 100)
    assert publish(made).operation == "compact"
    assert kept(Store.open(made.url)) == PRICES
    assert kept(run(tmp_path, priced(99, "3.jpg"))) == priced(99, "3.jpg")


def test_a_rollback_brings_the_columns_back(tmp_path):
    run(tmp_path, PRICES)
    store = run(tmp_path, priced(99, "3.jpg"))
    roll_back(store.url, layout.load_snapshot(store.url, 1))
    assert kept(Store.open(store.url)) == PRICES
    assert kept(run(tmp_path, priced(99, "3.jpg"))) == priced(99, "3.jpg")


STEP = st.tuples(
    st.dictionaries(st.sampled_from(["a", "b", "c", "bad"]), st.tuples(st.integers(1, 2), st.integers(0, 2))),
    st.sampled_from(["add", "refresh"]),
    st.booleans(),
    st.sampled_from(["publish", "killed", "last"]),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=4))
def test_whatever_happened_the_last_run_gives_its_images_their_columns(history):
    with tempfile.TemporaryDirectory() as folder:
        late = []
        for images, operation, keeps, end in history:
            values = {name: {"price": price} for name, (_, price) in images.items()}
            versions = {name: f"v{version}" for name, (version, _) in images.items()}
            made = prepare(folder, values, operation, keeps=keeps, versions=versions)
            if end == "publish" and (values or layout.newest_snapshot(made.url)):
                publish(made)
            elif end == "last":
                late.append(made)
        for made in late:
            publish(made)
        images = {"a": {"price": 1}, "b": {"price": 2}, "bad": {}}
        store = run(folder, images, "refresh")
        assert kept(store) == {**images, "bad": {"price": None}}
