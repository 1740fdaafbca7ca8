"""Exports with the columns kept from the input, of every type, read back with the tools that they are for."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import tarfile
from decimal import Decimal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.pipelines.maintenance import export
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats import arrow
from tests.builders.data.stores import make_captions, make_features, make_store

NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 500000)
KEPT = pa.table(
    {
        "at": pa.array([NOON, None, NOON], pa.timestamp("us")),
        "caption": ["theirs", None, 'its own, "theirs"'],
        "category": pa.array(["shoes", "hats", "shoes"], pa.string()).dictionary_encode(),
        "day": pa.array([datetime.date(2024, 2, 29), None, datetime.date(1969, 1, 1)]),
        "id2": pa.array([1, None, 2**63 - 1], pa.int64()),
        "in_stock": [True, None, False],
        "opens": pa.array([datetime.time(9, 30), None, datetime.time(23, 59, 59)], pa.time32("s")),
        "photo": pa.array([b"\xff\x00", None, b""], pa.binary()),
        "price": pa.array([Decimal("19.90"), None, Decimal("-0.01")], pa.decimal128(9, 2)),
        "rating": pa.array([4.5, None, math.nan], pa.float64()),
        "seen": pa.array([NOON, None, NOON], pa.timestamp("us", "UTC")),
        "size": [{"w": 2.5, "tags": ["x", "y"]}, None, {"w": None, "tags": []}],
        "sizes": [[1, 2], None, []],
        "uri": ["mine", None, "mine too"],
    }
)
PLAIN = {
    "at": ["2024-02-29T12:00:00.5", None, "2024-02-29T12:00:00.5"],
    "caption": ["theirs", None, "its own, \"theirs\""],
    "category": ["shoes", "hats", "shoes"],
    "day": ["2024-02-29", None, "1969-01-01"],
    "id2": [1, None, 2**63 - 1],
    "in_stock": [True, None, False],
    "opens": ["09:30:00", None, "23:59:59"],
    "photo": ["/wA=", None, ""],
    "price": ["19.90", None, "-0.01"],
    "rating": [4.5, None, None],
    "seen": ["2024-02-29T12:00:00.5Z", None, "2024-02-29T12:00:00.5Z"],
    "size": [{"w": 2.5, "tags": ["x", "y"]}, None, {"w": None, "tags": []}],
    "sizes": [[1, 2], [], []],
    "input_uri": ["mine", None, "mine too"],
}  # fmt: skip
"""The values in JSON."""
TYPES = {
    "at": "DATETIME", "caption": "STRING", "category": "STRING", "day": "DATE", "id2": "INTEGER",
    "in_stock": "BOOLEAN", "opens": "TIME", "photo": "BYTES", "price": "NUMERIC", "rating": "FLOAT",
    "seen": "TIMESTAMP", "size": "RECORD", "sizes": "INTEGER", "input_uri": "STRING",
}  # fmt: skip
"""BigQuery's."""
TEXTS = {"a": "a dog", "b": "a cat", "c": "a hat"}


def rows_of(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return make_captions(str(tmp_path_factory.mktemp("captions") / "store"), TEXTS, kept=KEPT)


@pytest.fixture(scope="module", params=["parquet", "hdf5"])
def features(request, tmp_path_factory):
    url = str(tmp_path_factory.mktemp(request.param) / "store")
    return make_features(url, list("abc"), file_format=request.param, kept=KEPT)


@pytest.fixture(params=["captions", "features"])
def store(request, captions, tmp_path):
    if request.param == "captions":
        return captions
    return make_features(str(tmp_path / "store"), list("abc"), file_format="hdf5", kept=KEPT)


def exported(store, folder, file_format):
    record = export.export(store, str(folder), file_format)
    assert record["kept"] == list(PLAIN)
    return folder / f"part-00000.{'tar' if file_format == 'webdataset' else file_format}"


def kept_of(row):
    return {name: row[name] for name in PLAIN}


def schema_of(folder):
    return {one["name"]: one for one in json.loads((folder / "_schema.json").read_text())}


def test_parquet_has_them_with_their_types(store, tmp_path):
    table = pq.read_table(exported(store, tmp_path / "out", "parquet"))
    assert table.column_names[5:] == list(PLAIN)
    found = table.select(list(PLAIN)).rename_columns(KEPT.column_names)
    nested = ["size", "sizes", "rating"]
    expected = KEPT.set_column(2, "category", KEPT.column("category").cast(pa.string()))
    assert found.drop_columns(nested).cast(expected.drop_columns(nested).schema) == expected.drop_columns(
        nested
    )
    assert found.schema.field("price").type == pa.decimal128(9, 2)
    assert found.column("size").to_pylist() == PLAIN["size"]
    assert found.column("sizes").to_pylist() == PLAIN["sizes"]
    assert str(found.column("rating").to_pylist()) == "[4.5, None, nan]"
    assert {name: one["type"] for name, one in schema_of(tmp_path / "out").items() if name in TYPES} == TYPES


def test_json_lines_have_them_as_jsons_types(store, tmp_path):
    path = exported(store, tmp_path / "out", "jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(map(kept_of, rows)) == rows_of(PLAIN)
    fields = schema_of(tmp_path / "out")
    assert {name: fields[name]["type"] for name in TYPES} == TYPES
    assert {name for name in TYPES if fields[name]["mode"] != "NULLABLE"} == {"sizes"}
    inner = [(one["name"], one["type"], one["mode"]) for one in fields["size"]["fields"]]
    assert inner == [("w", "FLOAT", "NULLABLE"), ("tags", "STRING", "REPEATED")]


def cells(path):
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


SHEET = {
    **{name: ["" if one is None else str(one) for one in values] for name, values in PLAIN.items()},
    "in_stock": ["true", "", "false"],
    "size": ['{"w": 2.5, "tags": ["x", "y"]}', "", '{"w": null, "tags": []}'],
    "sizes": ["[1, 2]", "", "[]"],
}


def test_csv_has_them_on_every_line_of_a_row_with_nested_ones_as_json(tmp_path):
    spoken = {name: [caption(text), caption(text.upper())] for name, text in TEXTS.items()}
    url = str(tmp_path / "store")
    store = make_store(url, "captions", arrow.captions_field(), spoken, kept=KEPT)
    found = cells(exported(store, tmp_path / "out", "csv"))
    assert list(found[0]) == [
        "image_id", "uri", "version", "source", "rank", "caption", "logprob",
        *("input_caption" if name == "caption" else name for name in PLAIN),
    ]  # fmt: skip
    assert [(one["image_id"], one["caption"]) for one in found[:3]] == [
        ("a", "a dog"), ("a", "A DOG"), ("b", "a cat"),
    ]  # fmt: skip
    expected = {"input_caption" if name == "caption" else name: values for name, values in SHEET.items()}
    for first in (0, 1):
        lines = [{name: line[name] for name in expected} for line in found[first::2]]
        assert lines == rows_of(expected)
    fields = schema_of(tmp_path / "out")
    assert (fields["size"]["type"], fields["sizes"]["mode"]) == ("STRING", "NULLABLE")
    assert (fields["day"]["type"], fields["photo"]["type"], fields["opens"]["type"]) == (
        "DATE",
        "BYTES",
        "TIME",
    )


def caption(text):
    return {"text": text, "logprob": -1.0, "tokens": text.split()}


def test_csv_of_pooled_features_has_them_last(tmp_path):
    store = make_features(str(tmp_path / "store"), list("abc"), (2,), kept=KEPT)
    found = cells(exported(store, tmp_path / "out", "csv"))
    assert list(found[0])[4:6] == ["pooled_0", "pooled_1"]
    assert list(map(kept_of, found)) == rows_of(SHEET)


def test_webdataset_has_them_in_each_samples_json(store, tmp_path):
    with tarfile.open(exported(store, tmp_path / "out", "webdataset")) as tar:
        rows = [json.loads(tar.extractfile(one).read()) for one in tar if one.name.endswith(".json")]
    assert list(map(kept_of, rows)) == rows_of({**PLAIN, "sizes": [[1, 2], None, []]})


def test_npy_has_them_beside_the_ids(features, tmp_path):
    export.export(features, str(tmp_path / "out"), "npy")
    rows = [json.loads(line) for line in (tmp_path / "out" / "ids.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["a", "b", "c"]
    assert list(map(kept_of, rows)) == rows_of({**PLAIN, "sizes": [[1, 2], None, []]})
    assert np.load(tmp_path / "out" / "grid.npy").shape == (3, 2, 2, 3)


def test_duckdb_and_pandas_read_typed_values(captions, tmp_path):
    for file_format in ("parquet", "jsonl", "csv"):
        path = str(exported(captions, tmp_path / file_format, file_format))
        query = f"SELECT image_id, price::DECIMAL(9, 2) AS cost, day FROM '{path}' WHERE cost > 1"
        found = duckdb.execute(query).fetchall()
        assert found == [("a", Decimal("19.90"), datetime.date(2024, 2, 29))]
    frame = pd.read_parquet(tmp_path / "parquet")
    assert frame["at"].dtype == "datetime64[us]"
    assert frame.groupby("category")["image_id"].agg(list).to_dict() == {"hats": ["b"], "shoes": ["a", "c"]}
    assert frame["size"][0]["w"] == 2.5
    lines = pd.read_json(tmp_path / "jsonl" / "part-00000.jsonl", lines=True)
    assert lines["rating"].tolist()[0] == 4.5
    assert pd.read_csv(tmp_path / "csv" / "part-00000.csv")["id2"].tolist()[0] == 1


EDGES = {
    "big": (pa.uint64(), [2**64 - 1, 1], "NUMERIC", ["18446744073709551615", "1"]),
    "bigs": (pa.list_(pa.uint64()), [[2**64 - 1], []], "STRING", [["18446744073709551615"], []]),
    "fits": (pa.decimal256(76, 38), [Decimal("9" * 38 + ".5"), Decimal(1)], "BIGNUMERIC",
             ["9" * 38 + ".5" + "0" * 37, "1." + "0" * 38]),
    "wide": (pa.decimal256(60, 2), [Decimal("9" * 58), Decimal("0.5")], "STRING", ["9" * 58 + ".00", "0.50"]),
    "nanos": (pa.timestamp("ns"), [1_709_208_000_123_456_000, 0], "DATETIME",
              ["2024-02-29T12:00:00.123456", "1970-01-01T00:00:00"]),
    "parts": (pa.timestamp("ns", "UTC"), [1_709_208_000_123_456_789, None], "STRING",
              ["2024-02-29T12:00:00.123456789Z", None]),
    "spans": (pa.time64("ns"), [1000, None], "TIME", ["00:00:00.000001", None]),
    "zoned": (pa.timestamp("us", "Europe/Berlin"), [NOON.replace(tzinfo=datetime.UTC), None], "TIMESTAMP",
              ["2024-02-29T12:00:00.5Z", None]),
}  # fmt: skip
"""Type, values, BigQuery's type, and the values in JSON, of columns that BigQuery cannot load as they are."""


def test_what_bigquerys_types_cannot_hold_is_in_types_that_can(tmp_path):
    kept = pa.table({name: pa.array(values, kind) for name, (kind, values, _, _) in EDGES.items()})
    store = make_captions(str(tmp_path / "store"), {"a": "a dog", "b": "a cat"}, kept=kept)
    for file_format in ("parquet", "jsonl", "csv"):
        export.export(store, str(tmp_path / file_format), file_format)
        types = {name: schema_of(tmp_path / file_format)[name]["type"] for name in EDGES}
        assert types == {name: expected for name, (_, _, expected, _) in EDGES.items()}
    lines = (tmp_path / "jsonl" / "part-00000.jsonl").read_text().splitlines()
    expected = {name: texts for name, (_, _, _, texts) in EDGES.items()}
    assert [{name: json.loads(line)[name] for name in EDGES} for line in lines] == rows_of(expected)
    table = pq.read_table(tmp_path / "parquet" / "part-00000.parquet").select(list(EDGES))
    assert [str(field.type) for field in table.schema] == [
        "decimal128(20, 0)", "list<element: string>", "decimal256(76, 38)", "string", "timestamp[us]", "string",
        "time64[us]", "timestamp[us, tz=Europe/Berlin]",
    ]  # fmt: skip
    assert table.column("big").to_pylist() == [Decimal(2**64 - 1), Decimal(1)]
    assert table.column("parts").to_pylist() == EDGES["parts"][3]
    sheet = cells(tmp_path / "csv" / "part-00000.csv")
    assert [sheet[0][name] for name in ("big", "wide", "zoned")] == [
        expected[name][0] for name in ("big", "wide", "zoned")
    ]


def test_durations_are_text_in_formats_of_text(tmp_path):
    kept = pa.table({"lasts": pa.array([1500, None], pa.duration("ms"))})
    store = make_captions(str(tmp_path / "store"), {"a": "a dog", "b": "a cat"}, kept=kept)
    types = {}
    for file_format in ("parquet", "jsonl", "csv"):
        export.export(store, str(tmp_path / file_format), file_format)
        types[file_format] = schema_of(tmp_path / file_format)["lasts"]["type"]
    assert types == {"parquet": "INTEGER", "jsonl": "STRING", "csv": "STRING"}
    lines = (tmp_path / "jsonl" / "part-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["lasts"] for line in lines] == ["1.5s", None]
    assert cells(tmp_path / "csv" / "part-00000.csv")[0]["lasts"] == "1.5s"
    assert pq.read_table(tmp_path / "parquet" / "part-00000.parquet").schema.field(
        "lasts"
    ).type == pa.duration("ms")


def test_lists_in_lists_are_records_as_bigquery_has_none(tmp_path):
    kept = pa.table({"outline": [[[1.0, 2.0], []]]})
    store = make_captions(str(tmp_path / "store"), {"a": "a dog"}, kept=kept)
    export.export(store, str(tmp_path / "out"), "parquet")
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert table.column("outline").to_pylist() == [[{"items": [1.0, 2.0]}, {"items": []}]]
    assert schema_of(tmp_path / "out")["outline"] == {
        "name": "outline", "type": "RECORD", "mode": "REPEATED",
        "fields": [{"name": "items", "type": "FLOAT", "mode": "REPEATED"}],
    }  # fmt: skip


def test_failures_leave_no_line_and_rows_without_values_have_nulls(tmp_path):
    items = {"a": [caption("a dog")], "b": ImageError("decode", "decode", "no"), "c": [caption("a hat")]}
    kept = pa.table({"price": [1.5, 2.5, None]})
    store = make_store(str(tmp_path / "store"), "captions", arrow.captions_field(), items, kept=kept)
    export.export(store, str(tmp_path / "out"), "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out" / "part-00000.jsonl").read_text().splitlines()]
    assert [(row["image_id"], row["price"]) for row in rows] == [("a", 1.5), ("c", None)]
    assert [(row["image_id"], row["price"]) for row in store.failures().to_pylist()] == [("b", 2.5)]
