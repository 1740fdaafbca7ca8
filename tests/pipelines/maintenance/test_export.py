"""Exports, read back with the tools that they are for."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from fsspec.core import url_to_fs

from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance import export
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError, RequestError
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.storage import files
from tests.builders.data.history import CAPTIONS, GRID, advance, content
from tests.builders.data.stores import make_answers, make_captions

IMAGES = {f"val/{at}.jpg": "1" for at in range(11)}


def history(url, **options):
    """Rows that were superseded, a failure, a row with no version: what an export has to leave out or cope with."""
    advance(url, IMAGES, fails={"val/3.jpg": "decode"}, **options)
    return advance(url, {**IMAGES, "val/5.jpg": "2", "new": None}, **options)


@pytest.fixture(scope="module", params=["parquet", "hdf5"])
def features(request, tmp_path_factory):
    return history(str(tmp_path_factory.mktemp(request.param) / "store"), file_format=request.param)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return history(str(tmp_path_factory.mktemp("captions") / "store"), field=CAPTIONS)


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "out [1] #?")


def as_dict(rows, column):
    return {row["image_id"]: (row["version"], row[column]) for row in rows}


def flat(store):
    return {name: (version, np.ravel(grid).tolist()) for name, (version, grid) in content(store).items()}


def read_parts(output, suffix):
    names = [name for name in files.names(output) if name.endswith(suffix)]
    return [files.read_bytes(files.join(output, name)) for name in names]


def test_parquet_opens_in_any_reader(features, output):
    record = export.export(features, output, "parquet", rows_per_file=4)
    fs, path = url_to_fs(output)
    table = ds.dataset([f"{path}/{part['name']}" for part in record["files"]], filesystem=fs).to_table()
    assert table.num_rows == features.count() == 11
    assert str(table.schema.field("grid").type) == "fixed_size_list<element: float>[12]"
    assert as_dict(table.to_pylist(), "grid") == flat(features)
    assert [part["rows"] for part in record["files"]] == [4, 4, 3]
    assert json.loads(files.read_bytes(f"{output}/_export.json")) == record


def test_jsonl_of_features_is_one_object_a_line(features, output):
    export.export(features, output, "jsonl")
    (data,) = read_parts(output, ".jsonl")
    assert as_dict(map(json.loads, data.splitlines()), "grid") == flat(features)


def test_npy_is_memory_mapped_and_its_ids_lie_beside_it(features, tmp_path):
    export.export(features, str(tmp_path / "out"), "npy")
    array = np.load(tmp_path / "out" / "grid.npy", mmap_mode="r")
    assert isinstance(array, np.memmap)
    assert (array.dtype, array.shape) == (np.float16, (11, 2, 2, 3))
    ids = [json.loads(line) for line in (tmp_path / "out" / "ids.jsonl").read_text().splitlines()]
    rows = [{**row, "grid": grid} for row, grid in zip(ids, array.tolist(), strict=True)]
    assert as_dict(rows, "grid") == content(features)


def test_webdataset_has_a_sample_a_row_under_keys_of_its_own(features, output):
    export.export(features, output, "webdataset", rows_per_file=5)
    found, keys = {}, []
    for data in read_parts(output, ".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        names = sorted({name.split(".")[0] for name in members})
        keys += names
        for key in names:
            row = json.loads(members[f"{key}.json"])
            found[row["image_id"]] = row["version"], np.load(io.BytesIO(members[f"{key}.npy"])).tolist()
    assert keys == [f"{number:09d}" for number in range(11)]
    assert found == content(features)


def test_captions_as_csv_are_a_line_each(captions, output):
    record = export.export(captions, output, "csv")
    (data,) = read_parts(output, ".csv")
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    expected = {(name, "1", value[0]["text"]) for name, (_, value) in content(captions).items()}
    assert {(row["image_id"], row["rank"], row["caption"]) for row in rows} == expected
    assert record["rows"] == len(rows) == captions.count()


def fits(value, field):
    """Whether BigQuery would take ``value`` for ``field``: its rules for JSON, written down again."""
    if field["mode"] == "REPEATED":
        return isinstance(value, list) and all(fits(one, {**field, "mode": "REQUIRED"}) for one in value)
    if value is None:
        return field["mode"] == "NULLABLE"
    if field["type"] == "RECORD":
        fields = {one["name"]: one for one in field["fields"]}
        return set(value) <= set(fields) and all(fits(value.get(name), one) for name, one in fields.items())
    return isinstance(value, {"STRING": str, "INTEGER": int, "FLOAT": float, "BOOLEAN": bool}[field["type"]])


@pytest.mark.parametrize("keep_attention", [True])
def test_captions_fit_the_schema_for_bigquery(tmp_path, keep_attention):
    texts = {"a": "a dog runs", "b": 'a "cat",\nnew line', "c": "ünïcode 猫"}
    store = make_captions(str(tmp_path / "store"), texts, keep_attention)
    for file_format in ("jsonl", "parquet"):
        export.export(store, str(tmp_path / file_format), file_format)
    schema = json.loads((tmp_path / "jsonl" / "_schema.json").read_text())
    assert schema == json.loads((tmp_path / "parquet" / "_schema.json").read_text())
    lines = (tmp_path / "jsonl" / "part-00000.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert all(fits(row, {"type": "RECORD", "mode": "REQUIRED", "fields": schema}) for row in rows)
    assert {row["image_id"]: row["captions"][0]["text"] for row in rows} == texts
    assert pq.read_table(tmp_path / "parquet" / "part-00000.parquet").to_pylist() == rows
    assert pa.json.read_json(tmp_path / "jsonl" / "part-00000.jsonl").num_rows == 3
    (field,) = [field for field in schema if field["name"] == "captions"]
    assert (field["type"], field["mode"]) == ("RECORD", "REPEATED")
    inner = {one["name"]: (one["type"], one["mode"]) for one in field["fields"]}
    assert inner["tokens"] == ("STRING", "REPEATED")
    if keep_attention:
        assert inner["attention"] == ("RECORD", "REPEATED")


PROMPTS = {
    "colour": {"text": "Which colour?"},
    "product": {
        "text": "What is it?",
        "schema": {
            "type": "object",
            "properties": {
                "kind": {"enum": ["car", "cat"]},
                "price": {"type": ["number", "null"]},
                "since": {"type": "string", "format": "date"},
                "outline": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            },
        },
    },
}
CAR = '{"kind": "car", "price": 3, "since": "2024-01-01", "outline": [[1, 2], []]}'


@pytest.fixture
def answers(tmp_path):
    rows = {
        "a.jpg": {"colour": ["red", "dark red"], "product": [CAR]},
        "b.jpg": ImageError("refused", "model", "no"),
        "c.jpg": {"colour": [], "product": ['{"kind": "cat"}']},
    }
    return make_answers(str(tmp_path / "store"), rows, PROMPTS)


def test_answers_to_prompts_are_nested_columns_of_typed_values(answers, tmp_path):
    for file_format in ("jsonl", "parquet"):
        export.export(answers, str(tmp_path / file_format), file_format)
    rows = [json.loads(line) for line in (tmp_path / "jsonl" / "part-00000.jsonl").read_text().splitlines()]
    about = {"finish_reason": "stop", "tokens_in": 100, "tokens_out": 1, "model": "tiny-1"}
    identity = {"version": "v1", "source": "/images"}
    car = {"kind": "car", "price": 3.0, "since": "2024-01-01", "outline": [{"items": [1, 2]}, {"items": []}]}
    cat = {"kind": "cat", "price": None, "since": None, "outline": []}
    assert rows == [
        {
            "image_id": "a.jpg", "uri": "/images/a.jpg", **identity,
            "colour": [{"text": "red", **about}, {"text": "dark red", **about, "tokens_out": 2}],
            "product": [{"text": CAR, "value": car, **about, "tokens_out": len(CAR.split())}],
        },
        {
            "image_id": "c.jpg", "uri": "/images/c.jpg", **identity,
            "colour": [], "product": [{"text": '{"kind": "cat"}', "value": cat, **about, "tokens_out": 2}],
        },
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "parquet" / "part-00000.parquet").to_pylist() == rows
    schema = json.loads((tmp_path / "jsonl" / "_schema.json").read_text())
    assert all(fits(row, {"type": "RECORD", "mode": "REQUIRED", "fields": schema}) for row in rows)
    types = {field["name"]: field for field in schema}
    assert [one["name"] for one in types["colour"]["fields"]] == ["text", *about]
    (value,) = [one for one in types["product"]["fields"] if one["name"] == "value"]
    assert [(one["name"], one["type"], one["mode"]) for one in value["fields"]] == [
        ("kind", "STRING", "NULLABLE"),
        ("price", "FLOAT", "NULLABLE"),
        ("since", "STRING", "NULLABLE"),
        ("outline", "RECORD", "REPEATED"),
    ]
    assert value["fields"][3]["fields"] == [{"name": "items", "type": "INTEGER", "mode": "REPEATED"}]


def test_answers_to_prompts_as_csv_are_a_line_each_with_the_prompt(answers, tmp_path):
    export.export(answers, str(tmp_path / "out"), "csv")
    lines = list(csv.reader(io.StringIO((tmp_path / "out" / "part-00000.csv").read_text(), newline="")))
    assert lines == [
        ["image_id", "uri", "version", "source", "prompt", "rank", "caption", "logprob"],
        ["a.jpg", "/images/a.jpg", "v1", "/images", "colour", "1", "red", ""],
        ["a.jpg", "/images/a.jpg", "v1", "/images", "colour", "2", "dark red", ""],
        ["a.jpg", "/images/a.jpg", "v1", "/images", "product", "1", CAR, ""],
        ["c.jpg", "/images/c.jpg", "v1", "/images", "product", "1", '{"kind": "cat"}', ""],
    ]
    modes = {
        field["name"]: field["mode"] for field in json.loads((tmp_path / "out/_schema.json").read_text())
    }
    assert (modes["prompt"], modes["logprob"]) == ("REQUIRED", "NULLABLE")


def test_answers_as_webdataset_are_json_with_every_column(answers, tmp_path):
    export.export(answers, str(tmp_path / "out"), "webdataset")
    with tarfile.open(tmp_path / "out" / "part-00000.tar") as tar:
        rows = [json.loads(tar.extractfile(member).read()) for member in tar]
    assert rows == next(answers.scan()).to_pylist()


def test_a_store_of_answers_without_rows_is_exported(tmp_path):
    """Where no file says which type the JSON has."""
    store = make_answers(str(tmp_path / "store"), {"a": ImageError("refused", "model", "no")}, PROMPTS)
    export.export(store, str(tmp_path / "out"), "parquet")
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert (table.num_rows, table.column_names[4:]) == (0, ["colour", "product"])


def test_duckdb_and_pandas_read_a_snapshots_data_file(answers):
    (shard,) = answers.shards
    query = "SELECT colour[1].text, product[1].value.price, product[1].value.kind FROM read_parquet(?)"
    found = duckdb.execute(query, [answers.data_url(shard["shard"])]).fetchall()
    assert found == [("red", 3.0, "car"), (None, None, "cat")]
    frame = pd.read_parquet(answers.data_url(shard["shard"]))
    assert [row[0]["value"]["kind"] for row in frame["product"]] == ["car", "cat"]
    assert [[one["text"] for one in row] for row in frame["colour"]] == [["red", "dark red"], []]


def test_an_output_that_holds_something_is_refused_and_left_alone(features, output):
    files.write_atomic(f"{output}/mine.txt", b"mine")
    with pytest.raises(RequestError, match="holds something already; expected a new or empty folder"):
        export.export(features, output, "parquet")
    assert files.names(output) == ["mine.txt"]


def test_an_export_that_fails_leaves_nothing(features, output, monkeypatch):
    """The storage fails in the middle of the second file."""
    read, calls = Store._read, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return read(*arguments)

    monkeypatch.setattr(Store, "_read", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        export.export(features, output, "parquet", rows_per_file=2)
    assert not files.exists(output)
    fs, path = url_to_fs(output)
    assert not [name for name in fs.ls(path.rsplit("/", 1)[0], detail=False) if name.endswith(".tmp")]


def test_captions_as_webdataset_are_json(captions, output):
    export.export(captions, output, "webdataset")
    (data,) = read_parts(output, ".tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        rows = [json.loads(tar.extractfile(member).read()) for member in tar]
    assert as_dict(rows, "captions") == content(captions)


def test_pooled_features_as_csv_have_a_column_a_number(tmp_path):
    store = history(str(tmp_path / "store"), field=arrow.grid_field("pooled", (5,)))
    export.export(store, str(tmp_path / "out"), "csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "part-00000.csv").read_text(), newline="")))
    found = {
        row["image_id"]: (row["version"] or None, [float(row[f"pooled_{at}"]) for at in range(5)])
        for row in rows
    }
    assert found == content(store)


def test_the_command_exports_the_snapshot_that_is_named(captions, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert cli.main(["store", "export", f"{captions.url}@1", "--output", out, "--format", "jsonl"]) == 0
    assert "10 rows of snapshot 1 in 1 file," in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "part-00000.jsonl").read_text().splitlines()]
    assert as_dict(rows, "captions") == content(Store.open(captions.url, 1))


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [
        ("features", ["--format", "csv"], "csv has no columns for grids"),
        ("features", ["--format", "xml"], "--format is 'xml'; expected one of parquet, jsonl"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(kind, arguments, sentence, tmp_path, capsys):
    store = advance(str(tmp_path / "store"), {"a": "1"}, field=CAPTIONS if kind == "captions" else GRID)
    assert cli.main(["store", "export", store.url, "--output", str(tmp_path / "out"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
