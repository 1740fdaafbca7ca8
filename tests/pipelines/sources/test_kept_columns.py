"""Which columns are kept beside the images of each kind of source, and their types."""

from __future__ import annotations

import io
import json
import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.parse import parse_sources
from captionbeam.pipelines.sources.spec import Columns, Ignored, SourceOptions
from captionbeam.schemas.errors import SourceError
from captionbeam.schemas.formats.kept import schema_of, struct_of
from captionbeam.schemas.records import ImageRef


def kept(path, *names):
    """Each image's kept values by its id, and the types of all columns."""
    found = [
        item
        for spec in parse_sources([str(path)], SourceOptions(keep_columns=names))
        for item in list_images(spec)
    ]
    (columns,) = [schema_of(item.schema) for item in found if isinstance(item, Columns)]
    refs = [item for item in found if isinstance(item, ImageRef)]
    values = struct_of([ref.columns for ref in refs], columns).to_pylist()
    ids = [ref.image_id for ref in refs]
    return dict(zip(ids, values, strict=True)), {field.name: str(field.type) for field in columns}


ROWS = {"1": {"category": "pets", "price": 1.5}, "2": {"category": "cars", "price": 2.0}}
TYPES = {"category": "string", "price": "double"}


def test_csv(tmp_path):
    (tmp_path / "list.csv").write_text("id,url,category,price\n1,a.jpg,pets,1.5\n2,b.jpg,cars,2\n")
    assert kept(tmp_path / "list.csv", "all") == (ROWS, TYPES)
    assert kept(tmp_path / "list.csv", "price")[0] == {"1": {"price": 1.5}, "2": {"price": 2.0}}


def test_tsv_and_semicolons(tmp_path):
    (tmp_path / "list.tsv").write_text("id\turl\tcategory\tprice\n1\ta.jpg\tpets\t1.5\n2\tb.jpg\tcars\t2\n")
    assert kept(tmp_path / "list.tsv", "all") == (ROWS, TYPES)
    (tmp_path / "list.csv").write_text("id;url;category;price\n1;a.jpg;pets;1.5\n2;b.jpg;cars;2\n")
    assert kept(tmp_path / "list.csv", "all") == (ROWS, TYPES)


def test_json_lines_need_not_all_have_a_column(tmp_path):
    lines = [
        {"id": 1, "uri": "a.jpg", "category": "pets", "price": 1.5},
        {"id": "2", "uri": "b.jpg", "tags": ["new"]},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    values, types = kept(tmp_path / "list.jsonl", "all")
    assert types == TYPES | {"tags": "list<item: string>"}
    assert values["2"] == {"category": None, "price": None, "tags": ["new"]}


@pytest.mark.parametrize("images", ["uri", "image"])
def test_parquet_has_types_of_its_own(tmp_path, images):
    column = ["a.jpg", "b.jpg"] if images == "uri" else [b"jpeg", b"jpeg"]
    price = pa.array([1.5, 2], pa.float32())
    table = pa.table({"id": ["1", "2"], images: column, "category": ["pets", "cars"], "price": price})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1)
    assert kept(tmp_path / "x.parquet", "all") == (ROWS, TYPES | {"price": "float"})


def test_coco(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", **ROWS["1"]}, {"id": 2, "file_name": "b.jpg", **ROWS["2"]}]
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    assert kept(tmp_path / "coco.json", "all") == (ROWS, TYPES)


def webdataset(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset_has_json_before_or_after_an_image(tmp_path):
    first, second = (json.dumps(row).encode() for row in ROWS.values())
    webdataset(
        tmp_path / "x.tar",
        {
            "s/1.jpg": b"x",
            "s/1.json": first,
            "s/1.txt": b"x",
            "s/2.json": second,
            "s/2.left.jpg": b"x",
            "s/2.png": b"x",
        },
    )
    values, types = kept(tmp_path / "x.tar", "all")
    assert values == {"s/1.jpg": ROWS["1"], "s/2.left.jpg": ROWS["2"], "s/2.png": ROWS["2"]}
    assert types == TYPES


def test_json_beside_an_image_is_passed_over_only_where_nothing_is_kept(tmp_path):
    webdataset(tmp_path / "x.tar", {"1.jpg": b"x", "1.json": b"{}", "1.txt": b"x"})
    ignored = {}
    for names in ((), ("all",)):
        (spec,) = parse_sources([str(tmp_path / "x.tar")], SourceOptions(keep_columns=names))
        ignored[names] = [item.name for item in list_images(spec) if isinstance(item, Ignored)]
    assert ignored == {(): ["1.json", "1.txt"], ("all",): ["1.txt"]}


@pytest.mark.parametrize("data", [b"[1]", b"{", b"\xff"])
def test_json_that_is_no_object_is_passed_over(tmp_path, data):
    webdataset(tmp_path / "x.tar", {"1.jpg": b"x", "1.json": data, "2.jpg": b"x", "2.json": b'{"a":1}'})
    (spec,) = parse_sources([str(tmp_path / "x.tar")], SourceOptions(keep_columns=("all",)))
    assert [item.name for item in list_images(spec) if isinstance(item, Ignored)] == ["1.json"]
    assert kept(tmp_path / "x.tar", "all")[0] == {"1.jpg": {"a": None}, "2.jpg": {"a": 1}}


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "list.csv").write_text("url,category,price\na.jpg,pets,1\n")
    with pytest.raises(
        SourceError, match="has no column 'prize' to keep; expected some of 'url', 'category', 'price'"
    ):
        kept(tmp_path / "list.csv", "prize")


def columns_kept(*paths, names):
    """Each image's kept values, without nulls, by its id."""
    specs = parse_sources([str(path) for path in paths], SourceOptions(keep_columns=names))
    found = [item for spec in specs for item in list_images(spec)]
    types = [schema_of(item.schema) for item in found if isinstance(item, Columns)]
    fields = {field.name: field for schema in types for field in schema}
    refs = [item for item in found if isinstance(item, ImageRef)]
    rows = struct_of([ref.columns for ref in refs], pa.schema(list(fields.values()))).to_pylist()
    return {
        ref.image_id: {name: value for name, value in row.items() if value is not None}
        for ref, row in zip(refs, rows, strict=True)
    }


def test_a_column_that_one_of_several_sources_has_is_kept(tmp_path):
    (tmp_path / "a.csv").write_text("id,url\n1,a.jpg\n")
    (tmp_path / "b.csv").write_text("id,url,price\n2,b.jpg,5\n")
    pq.write_table(pa.table({"id": ["3"], "url": ["c.jpg"]}), tmp_path / "c.parquet")
    lists = [tmp_path / name for name in ("a.csv", "b.csv", "c.parquet")]
    assert columns_kept(*lists, names=("price",)) == {"1": {}, "2": {"price": 5}, "3": {}}
    said = "no source has a column 'prices' to keep; expected some of 'id', 'url', 'price'; did you mean 'price'?"
    with pytest.raises(SourceError, match=f"^{re.escape(said)}$"):
        columns_kept(*lists, names=("prices",))
    (tmp_path / "d.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match="has no column 'price' to keep; expected a column of a list"):
        columns_kept(tmp_path / "d.jpg", names=("price",))


def test_of_sources_that_may_lack_it_none_need_have_the_column(tmp_path):
    (tmp_path / "a.csv").write_text("id,url,sku\n1,a.jpg,x\n")
    for names, expected in ((("price", "SKU"), ("sku",)), (("price",), ())):
        options = SourceOptions(keep_columns=names, may_lack=True)
        (spec,) = parse_sources([str(tmp_path / "a.csv")], options)
        assert tuple(spec.keep) == expected


def test_of_several_files_of_one_source_the_first_one_must_have_the_column(tmp_path):
    (tmp_path / "a.csv").write_text("id,url,price\n1,a.jpg,5\n")
    (tmp_path / "b.csv").write_text("id,url\n2,b.jpg\n")
    assert columns_kept(tmp_path / "*.csv", names=("price",)) == {"1": {"price": 5}, "2": {}}


@pytest.mark.parametrize("name", ["List Price", "list_price", "LIST-PRICE", "ListPrice"])
def test_names_are_found_whatever_their_case_and_separators(tmp_path, name):
    """All sources keep the column by the name that the first one has."""
    (tmp_path / "a.csv").write_text("id,url,LIST-PRICE\n1,a.jpg,5\n")
    (tmp_path / "b.jsonl").write_text(
        '{"id": "2", "url": "b.jpg", "listPrice": 6}\n{"id": "3", "url": "c.jpg"}'
    )
    pq.write_table(pa.table({"id": ["4"], "url": ["d.jpg"], "list_price": [7]}), tmp_path / "c.parquet")
    webdataset(tmp_path / "d.tar", {"5.jpg": b"x", "5.json": b'{"List_Price": 8}'})
    lists = [tmp_path / name for name in ("a.csv", "b.jsonl", "c.parquet", "d.tar")]
    kept_as = "list_price" if name == "list_price" else "LIST-PRICE"
    assert columns_kept(*lists, names=(name,)) == {
        "1": {kept_as: 5}, "2": {kept_as: 6}, "3": {}, "4": {kept_as: 7}, "5.jpg": {kept_as: 8},
    }  # fmt: skip


def test_a_name_that_fits_several_columns_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("url,price,PRICE\na.jpg,1,2\n")
    with pytest.raises(
        SourceError, match="no column 'Price' to keep; expected some of 'url', 'price', 'PRICE'"
    ):
        columns_kept(tmp_path / "a.csv", names=("Price",))
    assert columns_kept(tmp_path / "a.csv", names=("PRICE",)) == {"a.jpg": {"PRICE": 2}}


def test_more_than_4_kib_a_row_is_refused_with_the_largest_column(tmp_path):
    (tmp_path / "list.csv").write_text(f"url,text,price\na.jpg,x,1\nb.jpg,{'x' * 5000},1\n")
    said = r"row 2 has 5,0\d\d bytes in its kept columns, 5,0\d\d of them in 'text'; expected at most 4,096"
    with pytest.raises(SourceError, match=said):
        kept(tmp_path / "list.csv", "all")
    assert kept(tmp_path / "list.csv", "price")[1] == {"price": "int64"}
