"""JSON Schemas as Arrow types, and answers as values of them."""

from __future__ import annotations

import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.pipelines.endpoints.json_schema import arrow_type, load_schema, parsed
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats import arrow

WORDS = pa.dictionary(pa.int32(), pa.string())
PRODUCT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "price": {"type": ["number", "null"], "minimum": 0},
        "count": {"type": "integer"},
        "sold": {"type": "boolean"},
        "since": {"type": "string", "format": "date"},
        "colour": {"enum": ["red", "green", None]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
        "size": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/size"}]},
        "more": {"type": "object"},
    },
    "required": ["name", "price"],
    "$defs": {
        "part": {
            "type": "object",
            "properties": {"word": {"const": "wheel"}, "at": {"$ref": "#/$defs/size"}},
        },
        "size": {"type": "array", "items": {"type": "number"}, "maxItems": 2},
    },
}


def test_every_kind_of_value_has_its_arrow_type():
    size = pa.list_(pa.float64())
    assert arrow_type(PRODUCT) == pa.struct(
        [
            ("name", pa.string()),
            ("price", pa.float64()),
            ("count", pa.int64()),
            ("sold", pa.bool_()),
            ("since", pa.string()),
            ("colour", WORDS),
            ("parts", pa.list_(pa.struct([("word", WORDS), ("at", size)]))),
            ("size", size),
            ("more", pa.string()),
        ]
    )


def test_an_answer_has_the_schemas_properties_and_text_where_there_is_no_type():
    answer = {
        "name": "cart",
        "price": 3,
        "count": 2.0,
        "parts": [{"word": "wheel", "at": [1, 2.5]}, None][:1],
        "more": {"ünï": [1, "x"]},
        "else": 1,
    }
    expected = {
        "name": "cart",
        "price": 3.0,
        "count": 2,
        "sold": None,
        "since": None,
        "colour": None,
        "parts": [{"word": "wheel", "at": [1.0, 2.5]}],
        "size": None,
        "more": '{"ünï": [1, "x"]}',
    }
    text = json.dumps(answer)
    found = parsed(text, PRODUCT)
    assert found == expected
    assert (type(found["price"]), type(found["count"])) == (float, int)
    assert pa.array([found], arrow_type(PRODUCT)).to_pylist() == [expected]
    assert parsed(f"```json\n{text}\n```\n", PRODUCT) == parsed(f" ```\n{text}```", PRODUCT) == expected


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({}, pa.string()),
        ({"type": "object"}, pa.string()),
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}, pa.string()),
        ({"type": "array"}, pa.string()),
        ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "string"}}, pa.string()),
        ({"type": ["string", "integer"]}, pa.string()),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, pa.string()),
        ({"enum": ["a", 1]}, pa.string()),
        ({"type": "array", "items": {}}, pa.list_(pa.string())),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"enum": [1, 1 << 70]}, pa.string()),
        ({"const": -(1 << 63) - 1}, pa.string()),
        ({"enum": [-(1 << 63), (1 << 63) - 1]}, pa.int64()),
        ({"const": True}, pa.bool_()),
        ({"type": "string", "enum": ["a", "b"]}, WORDS),
        ({"anyOf": [{"const": "a"}, {"enum": ["b"]}]}, WORDS),
        ({"anyOf": [{"const": "a"}, {"type": "string"}]}, pa.string()),
        ({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "pattern": "x+"}]}, pa.string()),
        ({"type": "number", "anyOf": [{"multipleOf": 3}, {"multipleOf": 5}]}, pa.float64()),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "integer"}}}, pa.int64()),
        ({"properties": {"a": {"type": "integer"}}}, pa.struct([("a", pa.int64())])),
        (
            {
                "properties": {"a": {"type": "integer"}},
                "allOf": [{"type": "object", "properties": {"b": {"type": "string"}}}],
            },
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
        ),
        (
            {"$ref": "#unit", "type": "string", "$defs": {"x": {"$anchor": "unit", "enum": ["m", "ft"]}}},
            WORDS,
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": "#/definitions/x",
                "type": "string",
                "definitions": {"x": {"type": "integer"}},
            },
            pa.int64(),
        ),
    ],
)
def test_the_type_of_a_schema(schema, kind):
    assert arrow_type(schema) == kind


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ([], "a JSON Schema is []; expected an object"),
        ({"type": "null"}, 'the JSON Schema {"type": "null"} allows no value except null; expected answers'),
        ({"enum": []}, 'the JSON Schema {"enum": []} allows no value except null; expected answers'),
        ({"properties": {"a": {"type": "strin"}}},
         "the JSON Schema's $.properties.a.type is \"strin\"; expected one of \"array\", \"boolean\", "),
        ({"minimum": "3"}, "the JSON Schema's $.minimum is \"3\"; expected number"),
        ({"pattern": "("}, "the JSON Schema's $.pattern is \"(\"; expected what the schema says: format \"regex\""),
        ({"$schema": "mine"}, "the JSON Schema's $schema is 'mine'; expected a published draft's"),
        (
            {"properties": {"a": {"$ref": "https://example.com/a.json"}}},
            "the JSON Schema refers to 'https://example.com/a.json'; expected a definition inside the schema",
        ),
        (
            {"patternProperties": {"x": {"$ref": "#/$defs/a"}}},
            "the JSON Schema refers to '#/$defs/a'; expected a definition inside the schema",
        ),
        (
            {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}},
            "the JSON Schema's '#/$defs/node' contains itself; expected a schema without recursion",
        ),
    ],
)  # fmt: skip
def test_what_is_no_schema_of_answers(schema, sentence):
    with pytest.raises(RequestError) as refused:
        arrow_type(schema)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("A red cart.", "the answer is 'A red cart.'; expected JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"name": "x", "price": NaN}', "expected JSON (NaN is no number of JSON)"),
        ("[" * 100_000, "expected JSON of fewer levels and smaller numbers"),
        ('{"name": "x"}', '$ is {"name": "x"}; expected \'price\' in it'),
        ('{"name": "x", "price": "3"}', '$.price is "3"; expected number or null'),
        ('{"name": "", "price": 1}', '$.name is ""; expected at least 1 characters'),
        ('{"name": "x", "price": -1}', "$.price is -1; expected at least 0"),
        ('{"name": "x", "price": 1, "colour": "blue"}', '$.colour is "blue"; expected one of "red", "green", null'),
        ('{"name": "x", "price": 1, "size": "big"}', '$.size is "big"; expected null or array'),
        ('{"name": "x", "price": 1, "parts": [{"word": "door"}]}', '$.parts[0].word is "door"; expected "wheel"'),
        ('{"name": "x", "price": 1, "size": [1, 2, 3]}', "$.size is [1, 2, 3]; expected at most 2 items"),
        ('{"name": "x", "price": 1, "count": 9223372036854775808}',
         "$.count is 9223372036854775808; expected an integer of 64 bits"),
        ('{"name": "x", "price": 1e999}', "$.price is Infinity; expected a number that fits into 64 bits"),
        ('{"name": "\\ud800", "price": 1}', '$.name is "\\ud800"; expected a string of Unicode text'),
        ('{"name": "x", "price": 1, "more": {"a": 1e999}}',
         '$.more is {"a": Infinity}; expected JSON with Unicode text and finite numbers'),
    ],
)  # fmt: skip
def test_an_invalid_answer_is_one_sentence(answer, sentence):
    with pytest.raises(ValueError) as refused:
        parsed(answer, PRODUCT)
    assert str(refused.value).endswith(sentence)


def test_a_schema_is_read_from_a_file_with_its_order(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(PRODUCT))
    schema = load_schema(str(path))
    assert json.dumps(schema) == json.dumps(PRODUCT)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "schema.json' cannot be read ("),
        ("{", "schema.json' is not JSON ("),
        ("[1]", "schema.json' has [1]; expected a JSON Schema, which is an object"),
        ('{"type": 1}', "schema.json': the JSON Schema's $.type is 1; expected "),
        ("[" * 2000 + "]" * 2000, "schema.json' has "),
        ('{"items": ' * 400 + "{}" + "}" * 400, "too many levels; expected "),
        (
            '{"properties": {"a\\ud800": {}}}',
            "schema.json': the JSON Schema has '{\"properties\": {\"a\\ud800'; expected ",
        ),
    ],
)
def test_a_file_without_a_schema_is_named(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "schema.json").write_text(text)
    with pytest.raises(RequestError) as refused:
        load_schema(f"{tmp_path}/schema.json")
    assert sentence in str(refused.value)


INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = {"string": TEXTS, "integer": INTEGERS, "number": NUMBERS | INTEGERS, "boolean": st.booleans()}
ANY = st.recursive(
    st.none() | st.booleans() | INTEGERS | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)


def enums(values):
    return st.lists(values, min_size=1, max_size=3).map(lambda some: ({"enum": some}, st.sampled_from(some)))


def nullable(pair):
    schema, values = pair
    return {"anyOf": [schema, {"type": "null"}]}, values | st.none()


def array(pair):
    return {"type": "array", "items": pair[0]}, st.lists(pair[1], max_size=3)


def struct(pairs):
    schema = {"type": "object", "properties": {name: pair[0] for name, pair in pairs.items()}}
    return schema, st.fixed_dictionaries({}, optional={name: pair[1] for name, pair in pairs.items()})


def either(pairs):
    return {"anyOf": [schema for schema, _ in pairs]}, st.one_of([values for _, values in pairs])


PAIRS = st.recursive(
    st.sampled_from([({"type": name}, values) for name, values in SCALARS.items()])
    | enums(TEXTS)
    | enums(TEXTS | st.none() | INTEGERS)
    | st.just(({}, ANY)),
    lambda inner: (
        inner.map(nullable)
        | inner.map(array)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3).map(struct)
        | st.lists(inner, min_size=1, max_size=3).map(either)
    ),
    max_leaves=8,
)
"""Schemas, each with a strategy for its values."""


def allows_a_value(schema) -> bool:
    try:
        arrow_type(schema)
    except RequestError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_valid_value_fits_the_type(data):
    schema, values = data.draw(PAIRS.filter(lambda pair: allows_a_value(pair[0])))
    some = data.draw(st.lists(values, min_size=1, max_size=3))
    found = [parsed(json.dumps(value), schema) for value in some]
    kind = arrow_type(schema)
    assert pa.array(found, kind).to_pylist() == found


@settings(max_examples=100, deadline=None)
@given(PAIRS.map(lambda pair: pair[0]).filter(allows_a_value), ANY)
def test_every_value_fits_or_is_refused_in_a_sentence(schema, value):
    try:
        found = parsed(json.dumps(value), schema)
    except ValueError as err:
        sentence = str(err)
        assert "; expected " in sentence
        return
    assert pa.array([found], arrow_type(schema)).to_pylist() == [found]


def test_enums_lists_and_structs_inside_answers_open_in_other_readers(tmp_path):
    field = arrow.answers_field("product", "p", arrow_type(PRODUCT))
    answers = [
        [{"text": "a", "value": parsed('{"name": "a", "price": 1, "colour": "red", "size": [2]}', PRODUCT)}],
        [],
        [{"text": "b", "value": None}],
    ]
    one, two = (pa.array(rows, field.type) for rows in (answers[:1], answers[1:]))
    path = str(tmp_path / "answers.parquet")
    with pq.ParquetWriter(path, pa.schema([field])) as writer:
        for part in (one, two):
            writer.write_table(pa.table([part], schema=pa.schema([field])))
    table = pq.read_table(path)
    assert table.schema.field("product").type == field.type
    assert pa.concat_arrays([one, two]).take(pa.array([2, 0])).to_pylist() == [
        pa.array(answers, field.type).to_pylist()[at] for at in (2, 0)
    ]
    query = "SELECT product[1].text, product[1].value.colour, product[1].value.size FROM read_parquet(?)"
    assert duckdb.execute(query, [path]).fetchall() == [
        ("a", "red", [2.0]),
        (None, None, None),
        ("b", None, None),
    ]
    assert [
        row[0]["value"]["colour"] for row in table.to_pandas()["product"] if len(row) and row[0]["value"]
    ] == ["red"]
