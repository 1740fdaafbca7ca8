"""``captionbeam caption --captioner hf:PATH --prompt ...``: a tiny random LLaVA in the same bulk job as a bundle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner
from captionbeam.capmodel.captioners.huggingface.chat_plan import resolve_chat
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.jobs import cli
from captionbeam.pipelines.workers.processors import columns_of
from captionbeam.schemas import Store
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.data.images import drawn
from tests.builders.model.chat_models import JSON_WORDS, save_chat_model
from tests.builders.model.transformers_models import save_model

IMAGES = 6
TWO = {"what": "describe the picture", "colour": "which colours"}
PROMPTS = [part for name, text in TWO.items() for part in ("--prompt", f"{name}={text}")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        Image.fromarray(drawn(40 + 9 * number, 90 - 9 * number)).rotate(31 * number).save(
            folder / f"photos/{number}.png"
        )
    (folder / "photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    save_chat_model(folder / "llava")
    return folder


def command(made, store, *arguments):
    return ["caption", made / "photos", "--captioner", f"hf:{made / 'llava'}", "--output", store, "--batch-size", 4,
            "--warn-failures", 1, "--shard-size", 3, *arguments]  # fmt: skip


def run(*arguments, status=0):
    """In this process, which has transformers loaded."""
    assert cli.main([str(argument) for argument in arguments]) == status


def rows(store, *columns):
    return {
        row["image_id"]: {column: [one["text"] for one in row[column]] for column in columns}
        for batch in Store.open(str(store)).scan(["image_id", *columns])
        for row in batch.to_pylist()
    }


@pytest.fixture(scope="module")
def asked(made, tmp_path_factory):
    store = tmp_path_factory.mktemp("asked") / "store"
    run(*command(made, store, *PROMPTS))
    return store


@pytest.fixture(scope="module")
def expected(made):
    """Each image's answers, from a batch of its own."""
    prompts = {name: {"text": text} for name, text in TWO.items()}
    plan = resolve_chat(str(made / "llava"), prompts, DecodeOptions(method="greedy"))
    loaded = ChatCaptioner.load(plan.folder, plan.spec, columns_of(plan.spec), {}, 1, "cpu")
    found = {}
    for number in range(IMAGES):
        item = loaded.prepare((made / f"photos/{number}.png").read_bytes())
        columns = loaded.run([item], [str(number)])
        found[f"{number}.png"] = {name: [columns[name][0][0]["text"].as_py()] for name in TWO}
    return found


def test_each_prompt_has_a_column_with_the_models_answers(asked, expected):
    assert rows(asked, *TWO) == expected
    assert len({answers["what"][0] for answers in expected.values()}) > 2
    assert any(answers["what"] != answers["colour"] for answers in expected.values())
    store = Store.open(str(asked))
    (failure,) = store.failures().to_pylist()
    assert (failure["image_id"], failure["stage"]) == ("broken.png", "decode")
    schema = next(iter(store.scan(list(TWO)))).schema
    assert schema.field("what").type == arrow.answers_field("what", "").type
    assert store.spec["prompts"] == {name: {"text": text} for name, text in TWO.items()}
    answers = [row[name][0] for batch in store.scan(list(TWO)) for row in batch.to_pylist() for name in TWO]
    (totals,) = map(files.read_json, map(str, asked.glob("plans/*/totals.json")))
    for name in ("tokens_in", "tokens_out"):
        assert totals["endpoint"][name] == sum(answer[name] for answer in answers) > 0


def test_a_prompts_fingerprint_depends_on_the_model_and_its_own_text_only(made):
    def fingerprints(prompts, **options):
        plan = resolve_chat(
            str(made / "llava"),
            {name: {"text": text} for name, text in prompts.items()},
            DecodeOptions(method="greedy"),
            **options,
        )
        return {field.name: field.metadata[arrow.PROMPT_KEY] for field in columns_of(plan.spec)}

    two = fingerprints(TWO)
    assert fingerprints({"colour": TWO["colour"]})["colour"] == two["colour"]
    assert fingerprints({"colour": TWO["what"]})["colour"] == two["what"] != two["colour"]
    assert fingerprints(TWO, system="describe")["what"] != two["what"]


def test_the_store_keeps_the_model_which_upkeep_knows(made, asked, expected, tmp_path):
    store = shutil.copytree(asked, tmp_path / "store")
    (kept,) = Path(store, "models").iterdir()
    run("store", "vacuum", store, "--keep", 1, "--grace", 0)
    assert kept.exists()
    run(
        "store", "retry-failures", store, "--all", "--warn-failures", 1
    )  # with the model that the store keeps
    run("store", "verify", store)
    assert rows(store, *TWO) == expected
    before = Store.open(str(store)).snapshot_id
    run("refresh", store, "--warn-failures", 1)
    assert rows(store, *TWO) == expected
    assert Store.open(str(store)).fingerprint == Store.open(str(asked)).fingerprint
    assert Store.open(str(store)).snapshot_id >= before


KIND = {"type": "string", "enum": ["dog", "cat"]}
SCHEMA = {"type": "object", "required": ["kind", "count", "sure"], "additionalProperties": False,
          "properties": {"kind": KIND, "count": {"type": "integer", "minimum": 0, "maximum": 99},
                         "sure": {"type": "boolean"}}}  # fmt: skip


@pytest.fixture(scope="module")
def json_model(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("json") / "llava", words=JSON_WORDS)


@pytest.mark.parametrize("drawn", [(), ("--temperature", 1, "--n-best", 2)], ids=["greedy", "drawn"])
def test_answers_by_a_schema_are_typed_values(made, json_model, tmp_path, capsys, drawn):
    """A random model, whose answers without the schema are no JSON."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    store, ask = tmp_path / "store", ("--captioner", f"hf:{json_model}", "--batch-size", 4)
    two = ("--prompt", "x=describe the picture", "--prompt", "plain=describe the picture", "--schema",
           f"x={tmp_path / 'schema.json'}")  # fmt: skip
    run("caption", made / "photos", *ask, *two, *drawn, "--output", store, "--warn-failures", 1)
    table = pa.concat_tables(
        pa.Table.from_batches([batch]) for batch in Store.open(str(store)).scan(["image_id", "x", "plain"])
    )
    value = pa.struct(
        [("kind", pa.dictionary(pa.int32(), pa.string())), ("count", pa.int64()), ("sure", pa.bool_())]
    )
    assert table.schema.field("x").type == arrow.answers_field("x", "", value).type
    assert table.num_rows == IMAGES
    found = {row["image_id"]: row for row in table.to_pylist()}
    for row in found.values():
        assert len(row["x"]) == (2 if drawn else 1)
        for answer in row["x"]:
            assert json.dumps(answer["value"]) == answer["text"]
            assert answer["value"]["kind"] in KIND["enum"]
            assert 0 <= answer["value"]["count"] <= 99
        for answer in row["plain"]:
            with pytest.raises(json.JSONDecodeError):
                json.loads(answer["text"])
    assert not drawn or len({answer["text"] for row in found.values() for answer in row["x"]}) > 3
    capsys.readouterr()
    run("caption", made / "photos/3.png", *ask, *two[:2], *two[4:], *drawn)
    texts = [answer["text"] for answer in found["3.png"]["x"]]
    assert [line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()] == texts


def test_a_schema_that_cannot_be_a_grammar_is_refused(made, json_model, tmp_path, capsys, monkeypatch):
    def said(schema, *more):
        (tmp_path / "schema.json").write_text(json.dumps(schema))
        ask = (
            "--captioner",
            f"hf:{json_model}",
            "--prompt",
            "describe",
            "--schema",
            tmp_path / "schema.json",
        )
        return refused(capsys, made / "photos", *ask, *more, "--output", tmp_path / "store")

    behind = {"type": "string", "pattern": "(?<=a)b"}
    assert "cannot be a grammar of xgrammar (Regex parsing error" in said(behind)
    assert "expected greedy search or --temperature, not --beam 2" in said(SCHEMA, "--beam", 2)
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    assert "xgrammar is not installed; expected pip install '.[xgrammar]'" in said(SCHEMA)


@contextmanager
def generated(monkeypatch):
    """Yields a list that gets the ids of the images of each batch that a model answers a prompt about."""
    batches, generate = [], ChatCaptioner.generate

    def watching(self, column, inputs, image_ids):
        batches.append([name for name in image_ids if name])
        return generate(self, column, inputs, image_ids)

    with monkeypatch.context() as patched:
        patched.setattr(ChatCaptioner, "generate", watching)
        yield batches


def copied(store):
    commits = layout.load_commits(str(store), layout.committed_shards(str(store)))
    return sum(commit.counts.get("answers_copied", 0) for commit in commits)


@pytest.mark.parametrize("drawn", [(), ("--temperature", 2, "--seed", 3)], ids=["greedy", "drawn"])
def test_only_another_prompt_is_generated(made, tmp_path, capsys, monkeypatch, drawn):
    """Copies of an image, too, keep their own drawn answers."""
    photos, store = shutil.copytree(made / "photos", tmp_path / "photos"), tmp_path / "store"
    for number in (6, 7):
        shutil.copy(photos / "5.png", photos / f"{number}.png")
    start = [photos, "--captioner", f"hf:{made / 'llava'}", "--output", store, "--batch-size", 4, "--shard-size", 4,
             "--warn-failures", 1, *drawn, *PROMPTS]  # fmt: skip
    run("caption", *start)
    before = rows(store, *TWO)
    assert (before["5.png"] == before["6.png"] == before["7.png"]) == (not drawn)
    more = [*start, "--prompt", "more=describe the colours"]
    capsys.readouterr()
    with generated(monkeypatch) as batches:
        run("refresh", *more, status=2)
        assert "answers to the unchanged prompts colour, what are copied" in capsys.readouterr().err
        assert batches == []
        run("refresh", *more, "--redo")
    images, every = sorted(name for batch in batches for name in batch), [f"{one}.png" for one in range(8)]
    assert (images == every) if drawn else {*every[:5]} < {*images} <= {*every}  # neighbours share an answer
    assert copied(store) == 2 * len(images)
    assert f"{2 * len(images)} copied" in capsys.readouterr().out
    found = rows(store, *TWO, "more")
    assert {name: {column: row[column] for column in TWO} for name, row in found.items()} == before
    assert all(row["more"] for row in found.values())


def test_without_output_answers_are_printed(made, expected, capsys):
    start = ["caption", made / "photos/3.png", "--captioner", f"hf:{made / 'llava'}", "--prompt"]
    run(*start, TWO["what"])
    assert capsys.readouterr() == (expected["3.png"]["what"][0] + "\n", "")


def test_drawn_answers_depend_on_the_seed_and_the_image_alone(made, tmp_path):
    """Not on shards and batches."""

    def drawn(seed, *how):
        store = tmp_path / f"store{len(list(tmp_path.iterdir()))}"
        run(*command(made, store), *PROMPTS, "--temperature", 2, "--seed", seed, "--n-best", 2, *how)
        return rows(store, *TWO)

    first = drawn(1, "--shard-size", 7)
    assert drawn(1, "--shard-size", 2, "--batch-size", 3) == first
    assert drawn(2, "--shard-size", 7) != first
    assert all(len(row["what"]) == 2 for row in first.values())


def test_an_answer_that_does_not_end_is_a_failure(made, capsys):
    start = ["caption", made / "photos/3.png", "--captioner", f"hf:{made / 'llava'}", "--prompt"]
    run(*start, TWO["what"], "--max-new-tokens", 2, status=3)
    assert (
        "cut_off: the answer does not end; expected it to end within --max-new-tokens 2"
        in capsys.readouterr().err
    )


def test_weights_that_do_not_fit_are_refused(made, tmp_path, capsys):
    folder = shutil.copytree(made / "llava", tmp_path / "llava")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    ask = ("--captioner", f"hf:{folder}", "--prompt", "describe", "--output", tmp_path / "store")
    said = refused(capsys, made / "photos", *ask)
    assert "do not fit its config.json" in said
    assert "of this very model, or --captioner vllm: or openai: if a server runs it" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.engines
def test_a_killed_job_goes_on_where_it_was(made, expected, tmp_path, capsys):
    """kill -9 after the first shard has its commit; the images of committed shards are not answered again."""
    photos, store = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    for number in range(300):
        shutil.copy(made / f"photos/{number % IMAGES}.png", photos / f"{number}.png")
    start = ["caption", photos, "--captioner", f"hf:{made / 'llava'}", "--output", store, "--batch-size", 1,
             "--shard-size", 3, *PROMPTS]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "captionbeam", *map(str, start)], stderr=subprocess.DEVNULL, start_new_session=True
    ) as job:  # fmt: skip
        while not layout.committed_shards(str(store)):
            assert job.poll() is None
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGKILL)
    before = {
        shard: (store / f"commits/{shard}.json").read_bytes() for shard in layout.committed_shards(str(store))
    }
    assert 0 < len(before) < 100
    run(*start)
    done = sum(json.loads(commit)["rows"] for commit in before.values())
    assert f"{done} rows and 0 failures that an earlier run committed" in capsys.readouterr().out
    assert {shard: (store / f"commits/{shard}.json").read_bytes() for shard in before} == before
    assert rows(store, *TWO) == {f"{number}.png": expected[f"{number % IMAGES}.png"] for number in range(300)}
    run("store", "verify", store)


def test_nothing_of_transformers_reaches_the_terminal(made, expected, tmp_path):
    """In a process of its own, where transformers warns for the first time, of options that greedy search ignores."""
    folder = shutil.copytree(made / "llava", tmp_path / "llava")
    own = json.loads((folder / "generation_config.json").read_text())
    sampling = {"do_sample": True, "temperature": 0.1, "top_p": 0.5, "max_length": 20}
    (folder / "generation_config.json").write_text(json.dumps({**own, **sampling, "pad_token_id": None}))
    arguments = [made / "photos/3.png", "--captioner", f"hf:{folder}", "--prompt", TWO["what"]]
    done = subprocess.run(
        [sys.executable, "-m", "captionbeam", "caption", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, expected["3.png"]["what"][0] + "\n", "")


def test_prompts_take_values_of_the_inputs_columns(made, tmp_path, capsys):
    """The answers are those to the prompts with the values in them; another value asks about that image again."""
    columns = {"0.png": ("picture", "a"), "1.png": ("colours", "b"), "2.png": ("", "c")}
    ask = (
        "--captioner",
        f"hf:{made / 'llava'}",
        "--prompt",
        "x=describe the {Word} which",
        "--batch-size",
        2,
    )
    store, photos = tmp_path / "store", ("--image-root", made / "photos")

    def listed(values):
        lines = ["path,Word,other", *(",".join([name, *value]) for name, value in values.items())]
        (tmp_path / "list.csv").write_text("\n".join(lines))
        return tmp_path / "list.csv"

    def answers(values):
        found = {}
        for name, (word, _) in values.items():
            run("caption", made / "photos" / name, *ask[:2], "--prompt", f"describe the {word} which")
            found[name] = {"x": [capsys.readouterr().out.removesuffix("\n")]}
        return found

    expected = answers(columns)
    assert len({row["x"][0] for row in expected.values()}) == 3
    run("caption", listed(columns), *photos, *ask, "--output", store)
    assert rows(store, "x") == expected
    assert "1 image has no value in a column that a prompt uses ({Word})" in capsys.readouterr().out
    run("caption", tmp_path / "list.csv", *photos, *ask)
    assert capsys.readouterr().out == "".join(f"{name}\t{row['x'][0]}\n" for name, row in expected.items())
    changed = {**columns, "1.png": ("picture", "b"), "2.png": ("", "other")}
    listed(changed)
    run("refresh", store)
    assert "0 new, 1 changed, 0 gone" in capsys.readouterr().out
    assert rows(store, "x") == answers(changed)
    assert (
        cli.main(["caption", *map(str, (tmp_path / "list.csv", *photos, *ask, "--prompt", "y={word}"))]) == 2
    )
    assert "has no column 'word', which a prompt uses" in capsys.readouterr().err


def refused(capsys, *arguments):
    assert cli.main(["caption", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_is_refused_with_a_sentence(made, tmp_path, capsys):
    photos, output = made / "photos", ("--output", tmp_path / "store")
    llava = ("--captioner", f"hf:{made / 'llava'}")
    blip = ("--captioner", f"hf:{save_model(tmp_path / 'blip')}")
    assert "which answers prompts; expected --prompt" in refused(capsys, photos, *llava, *output)
    for name, said in (
        ("chat_template.jinja", "without a chat template"),
        ("tokenizer.json", "expected"),
        ("model.safetensors", "has no .safetensors file"),
        ("config.json", "no config.json"),
        ("processor_config.json", "expected"),
    ):
        folder = shutil.copytree(made / "llava", tmp_path / f"without-{name}")
        (folder / name).unlink()
        ask = ("--captioner", f"hf:{folder}", "--prompt", "describe", *output)
        sentence = refused(capsys, photos, *ask)
        assert said in sentence
        assert "--captioner vllm: or openai: if a server runs it" in sentence
        assert not (tmp_path / "store").exists()
    assert "vllm: or openai:" in refused(capsys, photos, *blip, "--prompt", "describe", *output)
    more = (*llava, "--prompt", "describe", *output)
    assert "prefix is 'a'" in refused(capsys, photos, *more, "--prefix", "a")
    assert "expected --max-new-tokens" in refused(capsys, photos, *more, "--max-length", 9)
    assert "--model is for endpoints" in refused(capsys, photos, *more, "--model", "m")
    assert "--system goes with prompts" in refused(capsys, photos, *blip, "--system", "x", *output)
    assert "--schema goes with prompts" in refused(capsys, photos, *blip, "--schema", "x", *output)
    assert "--prompt is for endpoints" in refused(capsys, photos, "--bundle", "b", "--prompt", "x", *output)
