"""Prompts that name columns of the input: each image is asked with its own values."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import unicodedata

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from captionbeam.jobs import cli
from captionbeam.pipelines.transforms import PromptImages
from captionbeam.schemas import Store
from captionbeam.schemas.formats.kept import unpacked
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.web.endpoint import Reply, default_reply, scripted_endpoint

HEADER = ["image_url", "title", "category", "Unit Price", "other"]
ROWS = [
    ["0.png", "Mug {title}", "kitchen", "12.50", "a"],
    ["1.png", "Vase", "", "7", "b"],
    ["2.png", "Rug", "floor", "1e+3", "c"],
]
ALT = "--prompt", "alt=Describe this {category} product called {title}, {Unit Price} EUR."
PLAIN = "--prompt", "colour=Which colour?"
ASKED = {
    "0.png": "Describe this kitchen product called Mug {title}, 12.50 EUR.",
    "1.png": "Describe this  product called Vase, 7 EUR.",
    "2.png": "Describe this floor product called Rug, 1e+3 EUR.",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures of different content, whose first pixel is their number."""
    folder = tmp_path_factory.mktemp("made") / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.full((32, 32, 3), 80 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def products(tmp_path):
    return write_csv(tmp_path / "list.csv", ROWS)


def write_csv(path, rows, header=HEADER):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def caption(source, server, store, pictures, *arguments):
    return cli.main([str(each) for each in (
        "caption", source, "--captioner", f"openai:{server.url}", "--model", "scripted", "--image-root", pictures,
        "--shard-size", 2, "--publish-anyway", *(("--output", store) if store else ()), *arguments,
    )])  # fmt: skip


def refresh(store, *arguments):
    return cli.main([str(each) for each in ("refresh", store, "--publish-anyway", *arguments)])


def asked(server):
    return sorted(request.prompt for request in server.requests)


def texts(store, column="alt"):
    return {
        row["image_id"]: row[column][0]["text"].rpartition(" of ")[0]
        for batch in Store.open(str(store)).scan(["image_id", column])
        for row in batch.to_pylist()
    }


def used(store):
    """The values in the input, as the columns' files have them."""
    return {
        row["image_id"]: unpacked(row["columns_text"])
        for path in (store / "columns").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    }


def commit_counts(store, name):
    commits = layout.load_commits(str(store), layout.committed_shards(str(store)))
    return sum(commit.counts.get(name, 0) for commit in commits)


def test_each_image_is_asked_with_its_own_values(products, pictures, tmp_path, capsys):
    with scripted_endpoint() as server:
        assert caption(products, server, tmp_path / "store", pictures, *ALT) == 0
    assert asked(server) == sorted(ASKED.values())
    assert texts(tmp_path / "store") == ASKED
    said = capsys.readouterr().out
    assert (
        "note: 1 image has no value in a column that a prompt uses ({category}); its place in the prompt"
        in said
    )
    record = json.loads(next((tmp_path / "store/plans").glob("*/totals.json")).read_text())
    assert (record["empty_places"], record["empty_columns"]) == (1, {"category": 1})
    store = Store.open(str(tmp_path / "store"))
    assert store.kept == pa.schema(
        [("Unit Price", pa.float64()), ("category", pa.string()), ("title", pa.string())]
    )  # kept with the rows, although nothing named them
    assert used(tmp_path / "store") == {
        "0.png": {"title": "Mug {title}", "category": "kitchen", "Unit Price": "12.50"},
        "1.png": {"title": "Vase", "Unit Price": "7"},
        "2.png": {"title": "Rug", "category": "floor", "Unit Price": "1e+3"},
    }


def test_braces_that_name_no_column_stay(products, pictures, tmp_path):
    prompt = 'Answer {"a": {"b": 1}} or {{title}}, {} or { x }, for {{{title}}} {2} {a, b}.'
    with scripted_endpoint() as server:
        assert caption(products, server, tmp_path / "store", pictures, "--prompt", prompt) == 0
    assert asked(server) == sorted(
        f'Answer {{"a": {{"b": 1}}}} or {{title}}, {{}} or {{ x }}, for {{{row[1]}}} {{2}} {{a, b}}.'
        for row in ROWS
    )


def test_values_of_parquet_are_text(pictures, tmp_path):
    table = pa.table({
        "image": [(pictures / f"{number}.png").read_bytes() for number in range(3)],
        "id": ["a", "b", "c"],
        "n": pa.array([1, None, 3]),
        "price": pa.array([0.1, 2.5, 30], pa.float32()),
        "sold": [True, False, None],
        "when": pa.array([0, 1, 2], pa.date32()),
        "tags": [["x", "y"], [], None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "products.parquet")
    with scripted_endpoint() as server:
        prompt = "--prompt", "{id}|{n}|{price}|{sold}|{when}|{tags}"
        assert caption(tmp_path / "products.parquet", server, tmp_path / "store", pictures, *prompt) == 0
    assert asked(server) == [
        'a|1|0.1|true|1970-01-01|["x", "y"]', "b||2.5|false|1970-01-02|[]", "c|3|30.0||1970-01-03|",
    ]  # fmt: skip
    assert commit_counts(tmp_path / "store", "empty_places") == 2


def test_the_same_picture_with_other_values_is_asked_again(pictures, tmp_path):
    """In a shard, those with the same values share one answer, whether they are neighbours or not."""
    (tmp_path / "images").mkdir()
    for name in "abcdef":
        (tmp_path / "images" / f"{name}.png").write_bytes((pictures / "0.png").read_bytes())
    titles = dict(zip("abcdef", ["Mug", "Mug", "Vase", "Vase", "Mug", "Rug"], strict=True))
    rows = [[f"{name}.png", title] for name, title in titles.items()]
    products = write_csv(tmp_path / "list.csv", rows, ["path", "title"])
    with scripted_endpoint(latency=0.2) as server:
        two = "--prompt", "alt=Describe {title}.", *PLAIN
        store = tmp_path / "store"
        assert caption(products, server, store, tmp_path / "images", *two, "--shard-size", 6) == 0
    assert texts(store) == {f"{name}.png": f"Describe {title}." for name, title in titles.items()}
    assert texts(store, "colour") == dict.fromkeys(texts(store), "Which colour?")
    assert asked(server) == ["Describe Mug.", "Describe Rug.", "Describe Vase.", "Which colour?"]
    tokens = 3 * 2 + 2, 3 * 4 + 4  # words
    assert (commit_counts(store, "tokens_in"), commit_counts(store, "tokens_out")) == tokens


def test_copies_that_are_not_neighbours_share_a_failure(pictures, tmp_path):
    (tmp_path / "images").mkdir()
    for name, picture in zip("abcde", "01010", strict=True):
        (tmp_path / "images" / f"{name}.png").write_bytes((pictures / f"{picture}.png").read_bytes())

    def rejecting(request):
        return Reply("no", status=400) if request.digest == first else default_reply(request)

    with scripted_endpoint() as server:
        assert caption(tmp_path / "images/a.png", server, None, pictures, *PLAIN) == 0
        first = server.requests[0].digest
        server.requests.clear()
        server.reply = rejecting
        warn = "--warn-failures", 1, "--shard-size", 5
        assert caption(tmp_path / "images", server, tmp_path / "store", pictures, *PLAIN, *warn) == 0
    assert len(server.requests) == 2
    failures = Store.open(f"{tmp_path}/store").failures().to_pylist()
    assert sorted(row["image_id"] for row in failures) == ["a.png", "c.png", "e.png"]


def test_an_image_whose_prompt_has_no_text_is_a_failure_and_not_asked(products, pictures, tmp_path):
    store, prompts = tmp_path / "store", ("--prompt", "about= {category} ", *PLAIN)
    with scripted_endpoint() as server:
        assert caption(products, server, store, pictures, *prompts, "--warn-failures", 1) == 0
        assert asked(server) == [" floor ", " kitchen ", "Which colour?", "Which colour?"]
        (failure,) = Store.open(str(store)).failures().to_pylist()
        assert (failure["image_id"], failure["code"]) == ("1.png", "empty_prompt")
        assert failure["message"] == "the prompt 'about' is empty, as the image has no value for {category}"
        server.requests.clear()
        write_csv(products, [[*row[:2], row[2] or "table", *row[3:]] for row in ROWS])
        assert refresh(store) == 0
    assert asked(server) == [" table ", "Which colour?"]


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.parquet", "coco.json"])
def test_a_name_that_is_no_column_is_one_sentence(pictures, tmp_path, capsys, name):
    columns = {"file_name": ["0.png"], "title": ["Mug"], "id": ["1"]}
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table(columns), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps({"images": [{name: values[0] for name, values in columns.items()}]}))
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        path.write_text(f"{separator.join(columns)}\n{separator.join(one[0] for one in columns.values())}\n")
    with scripted_endpoint() as server:
        assert caption(path, server, tmp_path / "store", pictures, "--prompt", "Describe {titel}.") == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "has no column 'titel', which a prompt uses; expected some of 'file_name', 'title', 'id'" in said
    assert "or {{titel}} for the text {titel}" in said
    assert server.requests == []
    assert not files.exists(f"{tmp_path}/store/plans")


@pytest.mark.parametrize(("written", "meant"), [("Title", "title"), ("unit-price", "Unit Price")])
def test_a_column_of_another_spelling_is_suggested(products, pictures, capsys, written, meant):
    with scripted_endpoint() as server:
        assert caption(products, server, None, pictures, "--prompt", f"Describe {{{written}}}.") == 2
    assert f"did you mean {meant!r}?" in capsys.readouterr().err


def test_what_looks_like_a_column_is_said_once(products, pictures, tmp_path, capsys):
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    prompts = (
        "--prompt",
        "a={ title }, {title:>9}, {title}",
        "--prompt",
        "b={ title }",
        "--system",
        "A {title}.",
    )
    schema = "--schema", tmp_path / "schema.json"
    with scripted_endpoint(lambda _: Reply("{}")) as server:
        for store in (tmp_path / "store", None):
            assert caption(products, server, store, pictures, *prompts, *schema, "--limit", 1) == 0
            assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")] == [
                "note: { title } is sent as text; did you mean {title}?",
                "note: {title:>9} is sent as text; did you mean {title}?",
                "note: {title} in --system is sent as text; only prompts have columns",
                "note: --schema without a name is for all prompts: a, b; --schema NAME=FILE is for one",
            ]


def test_a_column_of_a_recorded_prompt_that_is_gone_is_one_sentence(products, pictures, tmp_path, capsys):
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(products, server, store, pictures, *ALT) == 0
        write_csv(products, [[row[0], row[1], *row[3:]] for row in ROWS], [HEADER[0], HEADER[1], *HEADER[3:]])
        capsys.readouterr()
        assert refresh(store) == 2
        said = capsys.readouterr().err
        assert "no column 'category', which a prompt uses; expected some of" in said
        assert "or another --prompt than that of the store's record, with --redo" in said
        assert "{{" not in said
        assert refresh(store, "--prompt", "alt=Describe {title}.", "--redo") == 0


def test_a_name_that_no_line_of_json_has_is_one_sentence(pictures, tmp_path, capsys):
    (tmp_path / "list.jsonl").write_text('{"path": "0.png", "title": "Mug"}\n')
    with scripted_endpoint() as server:
        arguments = pictures, "--prompt", "Describe {title} {titel}."
        assert caption(tmp_path / "list.jsonl", server, tmp_path / "store", *arguments) == 2
        assert caption(tmp_path / "list.jsonl", server, None, *arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3  # the first one is "listing images"
    for line in said[1:]:
        assert "no source has a column 'titel', which a prompt uses; expected some of 'title', 'path'" in line
    assert server.requests == []


def test_of_many_columns_the_closest_are_named_as_they_are_written(pictures, tmp_path, capsys):
    names = [f"column {number}" for number in range(300)]
    products = write_csv(tmp_path / "list.csv", [["0.png", "Mug", *names]], ["path", "Product  Name", *names])
    with scripted_endpoint() as server:
        assert caption(products, server, None, pictures, "--prompt", "A {Product Name}.") == 2
        said = capsys.readouterr().err
        assert "; expected some of 302 columns such as 'Product  Name', " in said
        assert said.count("'column ") <= 11
        assert caption(products, server, None, pictures, "--prompt", "A {Product  Name}.") == 0
    assert asked(server) == ["A Mug."]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_names_with_accents_are_found_in_either_form(pictures, tmp_path, name):
    """One character, or a letter and its accent, as in files of macOS."""
    composed, path = "gr\u00f6\u00dfe", tmp_path / name
    for form in "NFC", "NFD":
        row = {"path": "0.png", unicodedata.normalize(form, composed): "XL"}
        if name.endswith(".csv"):
            write_csv(path, [row.values()], row)
        elif name.endswith(".jsonl"):
            path.write_text(json.dumps(row))
        else:
            pq.write_table(pa.Table.from_pylist([row]), path)
        with scripted_endpoint() as server:
            for written in "NFC", "NFD":
                prompt = unicodedata.normalize(written, f"A {{{composed}}}.")
                assert caption(path, server, None, pictures, "--prompt", prompt) == 0
        assert asked(server) == ["A XL.", "A XL."]


def test_a_long_value_of_a_prompts_column_is_one_sentence(pictures, tmp_path, capsys):
    products = write_csv(tmp_path / "list.csv", [["0.png", "x" * 5000]], ["path", "text"])
    with scripted_endpoint() as server:
        assert caption(products, server, None, pictures, "--prompt", "A {text}.") == 2
    assert "in the prompt's column 'text'; expected at most 4,096: shorten it in the source" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("prompts", "said"), [
    (["Describe {titel}."], "no column 'titel'"),
    (["a=A", "A=B"], "two prompts are named 'A'"),
    (["A", "b"], "the prompt 'A' has no name"),
])  # fmt: skip
def test_wrong_prompts_are_told_before_beam_is_imported(products, tmp_path, prompts, said):
    """Which takes seconds."""
    words = ["caption", str(products), "--captioner", "openai:http://127.0.0.1:9/v1", "--model", "m"]
    words += ["--output", str(tmp_path / "store")]
    for prompt in prompts:
        words += ["--prompt", prompt]
    code = f"""import sys; from captionbeam.jobs import cli
print(cli.main({words!r}), sorted({{"apache_beam", "torch"}} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said in done.stderr
    assert done.stdout == "2 []\n"


def test_a_folder_has_no_columns(pictures, tmp_path, capsys):
    with scripted_endpoint() as server:
        assert caption(pictures, server, tmp_path / "store", pictures, "--prompt", "Describe {title}.") == 2
    said = capsys.readouterr().err
    assert "no source has a column 'title', which a prompt uses; expected a column of a list, Parquet" in said
    assert "{{title}}" in said


def test_kept_columns_and_those_of_prompts_are_kept(products, pictures, tmp_path):
    with scripted_endpoint() as server:
        for keep, kept in [
            ("other", ["other", "title"]),
            ("all", ["Unit Price", "category", "other", "title"]),
        ]:
            store, arguments = tmp_path / keep, ("--prompt", "Describe {title}.", "--keep-columns", keep)
            assert caption(products, server, store, pictures, *arguments) == 0
            assert Store.open(str(store)).kept.names == kept
        arguments = "--prompt", "Describe {image_url}.", "--keep-columns", "all"
        assert caption(products, server, tmp_path / "uris", pictures, *arguments) == 0
    assert Store.open(f"{tmp_path}/uris").kept.names == sorted(HEADER)
    assert asked(server)[:2] == ["Describe 0.png.", "Describe 1.png."]


def test_answers_of_a_killed_attempt_are_kept_with_their_values(products, pictures, tmp_path):
    """What was asked with other values is asked again, what was asked with the same is not."""
    store = tmp_path / "store"

    def two_answers(request):
        return default_reply(request) if len(server.requests) <= 2 else Reply("bad key", status=401)

    with scripted_endpoint(two_answers) as server:
        once = "--concurrency", 1, "--shard-size", 3
        assert caption(products, server, store, pictures, *ALT, *once) == 1
        answered = {request.prompt for request in server.requests[:2]}
        server.requests.clear()
        server.reply = default_reply
        rows = [[*row[:3], "99", row[4]] if row[0] == "0.png" else row for row in ROWS]
        write_csv(products, rows)
        assert caption(products, server, store, pictures, *ALT, *once) == 0
    changed = "Describe this kitchen product called Mug {title}, 99 EUR."
    assert asked(server) == sorted({changed, ASKED["1.png"], ASKED["2.png"]} - answered)
    assert texts(store) == {**ASKED, "0.png": changed}
    assert commit_counts(store, "answers_kept") == len(answered & {ASKED["1.png"], ASKED["2.png"]}) > 0


def test_commits_of_a_killed_first_run_are_copied_where_their_values_are_the_same(
    products, pictures, tmp_path
):
    """No snapshot has them yet."""
    store, prompts = tmp_path / "store", ("--prompt", "alt=A {category}?", "--prompt", "cost={Unit Price}?")

    def until_a_commit(request):
        answering = not layout.committed_shards(str(store))
        return default_reply(request) if answering else Reply("bad key", status=401)

    with scripted_endpoint(until_a_commit) as server:
        once = "--concurrency", 1, "--shard-size", 1
        assert caption(products, server, store, pictures, *prompts, *once) == 1
        answered = len(layout.committed_shards(str(store)))
        server.requests.clear()
        server.reply = default_reply
        write_csv(products, [[*row[:3], f"{row[3]} EUR", row[4]] for row in ROWS])
        assert caption(products, server, store, pictures, *prompts, *once) == 0
    assert [prompt for prompt in asked(server) if prompt.endswith("EUR?")] == [
        "12.50 EUR?",
        "1e+3 EUR?",
        "7 EUR?",
    ]
    assert commit_counts(store, "answers_copied") == answered > 0


def test_a_further_prompt_copies_answers_only_for_the_same_values(products, pictures, tmp_path):
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(products, server, store, pictures, *ALT) == 0
        server.requests.clear()
        write_csv(products, [[*row[:3], "8", row[4]] if row[0] == "1.png" else row for row in ROWS])
        assert refresh(store, *ALT, "--prompt", "more=What {other}?", "--redo") == 0
    changed = "Describe this  product called Vase, 8 EUR."
    assert asked(server) == sorted([changed, "What a?", "What b?", "What c?"])
    assert texts(store) == {**ASKED, "1.png": changed}
    assert texts(store, "more") == {"0.png": "What a?", "1.png": "What b?", "2.png": "What c?"}


def test_a_touched_picture_with_other_values_is_not_copied(products, pictures, tmp_path):
    """Its bytes are those of the row that it replaces, its prompt is not."""
    images, store = tmp_path / "images", tmp_path / "store"
    images.mkdir()
    for path in pictures.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    with scripted_endpoint() as server:
        assert caption(products, server, store, images, *ALT, *PLAIN) == 0
        server.requests.clear()
        write_csv(products, [[*row[:3], "8", row[4]] if row[0] == "1.png" else row for row in ROWS])
        for path in images.iterdir():
            os.utime(path, (1, 1))
        assert refresh(store) == 0
    changed = "Describe this  product called Vase, 8 EUR."
    assert asked(server) == [changed]
    assert texts(store) == {**ASKED, "1.png": changed}
    assert texts(store, "colour") == dict.fromkeys(ASKED, "Which colour?")


@pytest.mark.parametrize("job", ["refresh", "caption"])
def test_another_value_asks_the_prompts_that_use_it(products, pictures, tmp_path, capsys, job):
    """Answers to other prompts, and other images, are not asked again; columns that no prompt uses are rewritten."""
    store, keep = tmp_path / "store", ("--keep-columns", "other")
    prompts = "--prompt", "alt=A {category} {title}?", "--prompt", "cost={Unit Price}?", *PLAIN

    def again(rows):
        write_csv(products, rows)
        server.requests.clear()
        if job == "refresh":
            return refresh(store)
        return caption(products, server, store, pictures, *prompts, *keep)

    with scripted_endpoint() as server:
        assert caption(products, server, store, pictures, *prompts, *keep) == 0
        assert again(ROWS) == 0
        assert asked(server) == []
        assert again([[*row[:4], f"new {row[4]}"] for row in ROWS]) == 0
        assert asked(server) == []
        assert kept(store, "other") == {"0.png": "new a", "1.png": "new b", "2.png": "new c"}
        capsys.readouterr()
        assert again([[*row[:3], "13", "new"] if row[0] == "0.png" else row for row in ROWS]) == 0
        assert asked(server) == ["13?"]
        assert job == "caption" or "0 new, 1 changed, 0 gone" in capsys.readouterr().out
        assert kept(store, "other") == {"0.png": "new", "1.png": "b", "2.png": "c"}
        assert again([[row[0], "Cup", "", *row[3:]] if row[0] == "2.png" else row for row in ROWS]) == 0
        assert asked(server) == ["12.50?", "A  Cup?"]
        assert again([[row[0], "Cup", "", "1000", row[4]] if row[0] == "2.png" else row for row in ROWS]) == 0
        assert asked(server) == ["1000?"]  # its type and value are the same, its text is not
    assert texts(store) == {"0.png": "A kitchen Mug {title}?", "1.png": "A  Vase?", "2.png": "A  Cup?"}
    assert texts(store, "cost") == {"0.png": "12.50?", "1.png": "7?", "2.png": "1000?"}
    assert texts(store, "colour") == dict.fromkeys(ASKED, "Which colour?")
    assert kept(store, "Unit Price") == {"0.png": 12.5, "1.png": 7, "2.png": 1000}
    assert cli.main(["store", "verify", str(store)]) == 0


def kept(store, column):
    return {
        row["image_id"]: row[column]
        for batch in Store.open(str(store)).scan(["image_id", column])
        for row in batch.to_pylist()
    }


def test_a_rejected_image_is_asked_again_with_another_value(products, pictures, tmp_path):
    def rejecting(request):
        return Reply("no", status=400) if "Vase" in request.prompt else default_reply(request)

    store = tmp_path / "store"
    with scripted_endpoint(rejecting) as server:
        assert caption(products, server, store, pictures, *ALT, *PLAIN, "--warn-failures", 1) == 0
        assert [row["image_id"] for row in Store.open(str(store)).failures().to_pylist()] == ["1.png"]
        server.requests.clear()
        assert refresh(store, "--warn-failures", 1) == 0
        assert asked(server) == []  # the failure is permanent
        write_csv(products, [[row[0], "Cup", *row[2:]] if row[0] == "1.png" else row for row in ROWS])
        assert refresh(store) == 0
    assert asked(server) == ["Describe this  product called Cup, 7 EUR."]  # the other answer is kept
    assert Store.open(str(store)).failures().num_rows == 0


def test_failures_are_retried_with_their_values(products, pictures, tmp_path):
    def rejecting(request):
        return Reply("no", status=400) if "Mug" in request.prompt else default_reply(request)

    store = tmp_path / "store"
    with scripted_endpoint(rejecting) as server:
        assert caption(products, server, store, pictures, *ALT, "--warn-failures", 1) == 0
        server.requests.clear()
        server.reply = default_reply
        retry = "store", "retry-failures", store, "--all", "--publish-anyway"
        assert cli.main([str(each) for each in retry]) == 0
        assert asked(server) == [ASKED["0.png"]]
        server.requests.clear()
        assert refresh(store) == 0
        assert asked(server) == []
    assert texts(store) == ASKED
    assert kept(store, "Unit Price") == {"0.png": 12.5, "1.png": 7, "2.png": 1000}


def test_compacting_keeps_what_prompts_use(products, pictures, tmp_path):
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(products, server, store, pictures, *ALT, "--shard-size", 1) == 0
        server.requests.clear()
        assert cli.main(["store", "compact", str(store)]) == 0
        assert refresh(store) == 0
        write_csv(products, [[*row[:3], "8", row[4]] if row[0] == "1.png" else row for row in ROWS])
        assert refresh(store) == 0
    assert asked(server) == ["Describe this  product called Vase, 8 EUR."]


def test_elements_with_columns_are_asked_with_them(pictures):
    data = (pictures / "0.png").read_bytes()
    images = [("a", data, {"title": "Mug", "n": 2}), ("b", data, {"title": "Vase"})]
    with scripted_endpoint() as server:
        pipeline = beam.Pipeline(runner="FnApiRunner")
        rows, _ = pipeline | beam.Create(images) | PromptImages(server.url, "scripted", "{n} {title}?")
        texts = rows | beam.Map(lambda row: (row.image_id, row.text.partition(" of ")[0]))
        assert_that(texts, equal_to([("a", "2 Mug?"), ("b", "Vase?")]))
        pipeline.run().wait_until_finish()
        assert asked(server) == [" Vase?", "2 Mug?"]


def test_captions_are_printed_without_a_store(products, pictures, capsys):
    with scripted_endpoint() as server:
        assert caption(products, server, None, pictures, "--prompt", "Describe {category}.") == 0
    printed = capsys.readouterr()
    assert [line.split("\t")[1].partition(" of ")[0] for line in printed.out.splitlines()] == [
        "Describe kitchen.", "Describe .", "Describe floor.",
    ]  # fmt: skip
    assert "note: 1 image has no value in a column that a prompt uses ({category})" in printed.err


def test_empty_cells_are_counted_by_column(products, pictures, tmp_path, capsys):
    write_csv(products, [[*row[:2], "" if number else row[2], row[3], ""] for number, row in enumerate(ROWS)])
    prompts = "--prompt", "a={category} {title}", "--prompt", "b=Say: {other}"
    line = "note: 3 images have no value in a column that a prompt uses ({category} 2, {other} 3)"
    with scripted_endpoint() as server:
        assert caption(products, server, None, pictures, *prompts) == 0
        assert line in capsys.readouterr().err
        assert caption(products, server, tmp_path / "store", pictures, *prompts) == 0
        assert line in capsys.readouterr().out


@pytest.mark.parametrize("preview", [("--plan",), ("--canary", 3)])
def test_a_plan_counts_values_that_changed_and_the_answers_to_their_prompts(
    products, pictures, tmp_path, capsys, preview
):
    """Two of three images have another value of one of two prompts: two answers are asked, four are copied."""
    store = tmp_path / "store"
    prompts = "--prompt", "cost={Unit Price}?", "--prompt", "alt={title}?"
    with scripted_endpoint(lambda _: Reply("a", tokens=(30, 10))) as server:
        assert caption(products, server, store, pictures, *prompts) == 0
        rows = [[*row[:3], "" if number else "13", row[4]] for number, row in enumerate(ROWS[:2])]
        write_csv(products, [*rows, ROWS[2]])
        capsys.readouterr()
        assert refresh(store, *preview) == 0
        said = capsys.readouterr().out
        server.requests.clear()
        assert refresh(store) == 0
    print(said)
    assert len(server.requests) == 2
    assert "a value that a prompt uses changed: 2 images" in said
    assert "reused" not in said
    assert "60 sent, 20 generated" in said
    assert "note: 1 image has no value in a column that a prompt uses ({Unit Price})" in said


def test_printing_refuses_two_images_with_one_id(products, pictures, tmp_path, capsys):
    other = write_csv(tmp_path / "other.csv", ROWS)
    with scripted_endpoint() as server:
        how = "--captioner", f"openai:{server.url}", "--model", "scripted", "--image-root", pictures
        both = [str(each) for each in ("caption", products, other, *how, "--prompt", "Describe {category}.")]
        assert cli.main(both) == 2
        assert "two images have the id '0.png'" in capsys.readouterr().err
        assert cli.main([*both, "--on-duplicate", "first"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_canary_and_a_dry_run_know_the_columns(products, pictures, tmp_path, capsys):
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(products, server, store, pictures, *ALT, "--limit", 1) == 0
        server.requests.clear()
        arguments = "refresh", products, "--output", store, "--publish-anyway", "--canary", 2
        assert cli.main([str(each) for each in arguments]) == 0
        assert len(server.requests) == 2
        assert set(asked(server)) < set(ASKED.values())
        server.requests.clear()
        assert caption(products, server, store, pictures, *ALT, "--dry-run") == 0
    assert server.requests == []
