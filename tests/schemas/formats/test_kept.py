"""Kept columns: values of every type survive their way as text, and types are inferred from all cells."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.formats import kept

UTC = datetime.UTC
VALUES = {
    "text": (["a", None, "ü"], pa.large_string()),
    "small": ([1, None, -1], pa.int8()),
    "large": ([2**64 - 1, 0, None], pa.uint64()),
    "half": ([1.5, None, 0.25], pa.float16()),
    "flag": ([True, None, False], pa.bool_()),
    "price": ([decimal.Decimal("1.20"), None, decimal.Decimal("-3.00")], pa.decimal128(9, 2)),
    "day": ([datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)], pa.date32()),
    "time": ([datetime.time(1, 2, 3, 4), None, datetime.time()], pa.time64("us")),
    "taken": ([datetime.datetime(2024, 1, 2, 3, 4, 5, 6), None, datetime.datetime(1970, 1, 1)], pa.timestamp("us")),
    "zoned": ([datetime.datetime(2024, 1, 2, tzinfo=UTC), None, None], pa.timestamp("ms", tz="Europe/Berlin")),
    "span": ([datetime.timedelta(days=1), None, datetime.timedelta()], pa.duration("ms")),
    "bytes": ([b"\xff\x00", None, b""], pa.large_binary()),
    "tags": ([["a", "b"], None, []], pa.list_(pa.string())),
    "size": ([{"w": 1, "h": 2}, None, {"w": 3, "h": None}], pa.struct([("w", pa.int32()), ("h", pa.int32())])),
    "brand": (["x", "y", None], pa.dictionary(pa.int8(), pa.string())),
}  # fmt: skip
AS_KEPT = {
    "text": pa.string(),
    "half": pa.float32(),
    "bytes": pa.binary(),
    "brand": pa.string(),
}


def struct_by_way_of_text(table: pa.Table) -> pa.StructArray:
    schema = pa.schema([(field.name, kept.kept_type(field.type)) for field in table.schema])
    columns = {name: kept.plain_values(table.column(name).combine_chunks()) for name in table.schema.names}
    texts = [
        kept.packed({name: column[row] for name, column in columns.items()}) for row in range(len(table))
    ]
    return kept.struct_of(texts, kept.Types(schema).schema())


@pytest.mark.parametrize("name", VALUES)
def test_a_parquet_column_keeps_its_values_and_its_type(name):
    values, kind = VALUES[name]
    column = struct_by_way_of_text(pa.table({name: pa.array(values, kind)})).field(0)
    assert column.type == AS_KEPT.get(name, kind)
    assert column.to_pylist() == pa.array(values, kind).cast(column.type).to_pylist()


def test_times_as_text_are_those_of_iso_8601():
    """So that models understand them in prompts."""
    noon = datetime.datetime(2026, 12, 1, 3, 4, 5)
    columns = [
        pa.array([datetime.time(12, 30), datetime.time(1, 2, 3, 4)], pa.time64("us")),
        pa.array([datetime.time(12, 30)], pa.time32("s")),
        pa.array([noon, noon.replace(microsecond=500_000)], pa.timestamp("us")),
        pa.array([noon], pa.timestamp("ms", "UTC")),
        pa.array([noon], pa.timestamp("s", "Europe/Berlin")),
        pa.array([datetime.timedelta(seconds=1.5), -datetime.timedelta(days=1)], pa.duration("ns")),
    ]
    assert [kept.plain_values(column) for column in columns] == [
        ["12:30:00", "01:02:03.000004"],
        ["12:30:00"],
        ["2026-12-01T03:04:05", "2026-12-01T03:04:05.5"],
        ["2026-12-01T03:04:05Z"],
        ["2026-12-01T04:04:05+01:00"],
        ["1.5s", "-86400s"],
    ]


@given(
    st.sampled_from(
        [pa.time64("ns"), pa.timestamp("us", "Asia/Kolkata"), pa.timestamp("ns"), pa.duration("us")]
    ),
    st.lists(st.integers(0, 86_399_999_999_999)),
)
def test_times_of_any_fraction_are_read_back(kind, counts):
    column = pa.array(counts, pa.int64()).cast(kind)
    assert struct_by_way_of_text(pa.table({"t": column})).field(0).equals(column)


def test_times_inside_lists_are_kept_as_json():
    (text,) = struct_by_way_of_text(pa.table({"days": [[datetime.date(2024, 2, 29)]]})).field(0).to_pylist()
    assert text == '["2024-02-29"]'


def types_of(*rows, pack=kept.packed_cells):
    types = kept.Types()
    for row in rows:
        types.see(pack(row))
    return {field.name: str(field.type) for field in types.schema()}


def test_types_of_cells_are_inferred_from_all_of_them():
    rows = [
        {"n": "1", "x": "1", "price": "2", "ok": "true", "code": "007", "mixed": "1", "empty": ""},
        {"n": "-20", "x": "1.5", "price": "1e+3", "ok": "FALSE", "code": "1", "mixed": "true", "empty": None},
    ]
    assert types_of(*rows) == {
        "n": "int64", "x": "double", "price": "double", "ok": "bool", "code": "string", "mixed": "string",
    }  # fmt: skip


def test_cells_of_a_column_that_is_mixed_stay_as_they_stand():
    rows = [{"code": "1.50"}, {"code": "n/a"}, {"code": ""}]
    texts = [kept.packed_cells(row) for row in rows]
    assert kept.struct_of(texts, pa.schema([("code", pa.string())])).field(0).to_pylist() == [
        "1.50",
        "n/a",
        None,
    ]


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.just("007")), min_size=1))
def test_no_cell_is_changed_by_its_type(values):
    cells = [str(value) for value in values]
    texts = [kept.packed_cells({"c": cell}) for cell in cells]
    types = kept.Types()
    for text in texts:
        types.see(text)
    found = kept.struct_of(texts, types.schema())
    kind = found.type[0].type if len(found.type) else pa.null()
    expected = {
        pa.int64(): [int(cell) if cell else None for cell in cells] if kind == pa.int64() else None,
        pa.float64(): [float(cell) if cell else None for cell in cells] if kind == pa.float64() else None,
        pa.string(): [cell or None for cell in cells],
    }.get(kind)
    if expected is not None:
        assert found.field(0).to_pylist() == expected


@pytest.mark.parametrize("cell", ["9223372036854775808", "12E4", "1e+999", "0.12345678901234567890"])
def test_cells_that_a_number_would_change_stay_text(cell):
    assert types_of({"c": cell}, {"c": "1"}) == {"c": "string"}


def test_times_of_different_units_merge():
    both = [pa.table({"t": pa.array([5000], kind)}) for kind in (pa.duration("ms"), pa.duration("us"))]
    texts = [kept.packed({"t": kept.plain_values(table.column("t").combine_chunks())[0]}) for table in both]
    types = kept.merged(*(table.schema for table in both))
    found = kept.struct_of(texts, types).field(0)
    assert found.to_pylist() == [datetime.timedelta(seconds=5), datetime.timedelta(milliseconds=5)]


def test_large_integers_beside_decimals_in_json_are_rounded():
    rows = [{"n": {"x": 2**53 + 1}}, {"n": {"x": 1.5}}]
    types = kept.Types()
    for row in rows:
        types.see(kept.packed(row))
    found = kept.struct_of([kept.packed(row) for row in rows], types.schema()).field(0)
    assert found.to_pylist() == [{"x": float(2**53)}, {"x": 1.5}]


def test_half_a_surrogate_pair_is_replaced():
    assert kept.unpacked(kept.packed({"t": "\ud800x"})) == {"t": "\ufffdx"}


def test_json_has_its_own_types():
    rows = [{"a": 1, "b": "1", "c": [1], "d": {"x": 1}}, {"a": 1.5, "b": "2", "c": [2.5], "d": {"y": "z"}}]
    assert types_of(*rows, pack=kept.packed) == {
        "a": "double",
        "b": "string",
        "c": "list<item: double>",
        "d": "struct<x: int64, y: string>",
    }


@pytest.mark.parametrize("odd", [{"a": {}}, {"a": 2**70}, {"a": [1, "x"]}])
def test_what_arrow_has_no_type_for_is_json_text(odd, tmp_path):
    text = kept.packed(odd)
    types = kept.Types()
    types.see(text)
    table = kept.table_of([("i", False, text)], types.schema())
    pq.write_table(table, tmp_path / "kept.parquet")
    assert kept.packed({"a": odd["a"]}) == '{"a":' + table.column("columns")[0].as_py()["a"] + "}"


schemas = st.dictionaries(
    st.sampled_from("abc"),
    st.sampled_from([pa.null(), pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.date32()]),
).map(lambda types: pa.schema(list(types.items())))


@given(schemas, schemas, schemas)
def test_types_are_the_same_in_whatever_order_containers_are_listed(one, two, three):
    assert kept.merged(kept.merged(one, two), three) == kept.merged(kept.merged(three, one), two)


@given(st.dictionaries(st.text(min_size=1), st.one_of(st.none(), st.text(), st.integers(), st.booleans())))
def test_text_gives_back_its_values(values):
    text = kept.packed(values)
    assert kept.unpacked(text) == {name: value for name, value in values.items() if value is not None}
    assert kept.columns_hash(text) == kept.columns_hash(kept.packed(dict(reversed(values.items()))))


def test_a_value_that_does_not_fit_what_the_listing_said_stops_the_job():
    with pytest.raises(SystemicError, match="kept column 'price' has a value that is no int64"):
        kept.struct_of([kept.packed_cells({"price": "much"})], pa.schema([("price", pa.int64())]))


def test_a_file_is_read_with_the_types_of_a_later_listing():
    """Cells that stopped being numbers are as they stand in the list; columns that are no more are left out."""
    texts = [kept.packed_cells({"price": price, "gone": "x"}) for price in ("1", "2.0")]
    types = pa.schema([("price", pa.float64()), ("gone", pa.string())])
    file = kept.table_of([("a", False, texts[0]), ("b", True, texts[1])], types)
    as_text = pa.schema([("new", pa.bool_()), ("price", pa.string())])
    assert kept.values_in(file, as_text).to_pylist() == [
        {"new": None, "price": "1"}, {"new": None, "price": "2.0"}
    ]  # fmt: skip
    assert kept.values_in(file.slice(0, 1), pa.schema([("price", pa.int64())])).to_pylist() == [{"price": 1}]


def test_values_of_two_listings_of_one_image():
    cells, typed = kept.packed_cells({"a": "007", "b": "1"}), kept.packed({"b": 2.5})
    assert kept.unpacked(kept.combined(cells, kept.packed_cells({"b": "2"}))) == {"a": "007", "b": "2"}
    both = kept.combined(cells, typed)
    assert both == kept.packed({"a": "007", "b": 2.5})
    assert kept.struct_of([both], pa.schema([("a", pa.int64())])).to_pylist() == [{"a": 7}]
    assert kept.selected(cells, ["a"]) == kept.packed_cells({"a": "007"})
    assert kept.selected(cells, ["c"]) == kept.selected("", ["c"]) == ""


def test_a_column_with_a_name_of_the_store_s_own_is_shown_as_input():
    schema = pa.schema([("Source", pa.string()), ("price", pa.int64())])
    assert kept.shown_names(schema, ["image_id", "source"]) == {"Source": "input_Source", "price": "price"}
