"""``captionbeam caption --captioner openai:URL``: prompts to a scripted server, in the same bulk job as a bundle."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionbeam.jobs import cli
from captionbeam.jobs.caption import Caption
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from tests.builders.web.endpoint import Reply, default_reply, scripted_endpoint

IMAGES = 6
ONE = ("--prompt", "Describe it.")
TWO = ("--prompt", "colour=Which colour?", "--prompt", "short=In a word?")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 255, (30 + number, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    return folder


def caption(photos, server, store, *arguments):
    return cli.main([str(each) for each in (
        "caption", photos, "--captioner", f"openai:{server.url}", "--model", "scripted", "--output", store,
        "--warn-failures", 1, "--shard-size", 2, *arguments,
    )])  # fmt: skip


def refresh(store, *arguments):
    return cli.main([str(each) for each in ("refresh", store, "--warn-failures", 1, *arguments)])


def rows(store, *columns):
    return {
        row["image_id"]: {column: [one["text"] for one in row[column]] for column in columns}
        for batch in Store.open(str(store)).scan(["image_id", *columns])
        for row in batch.to_pylist()
    }


def sent(photos, number):
    """The first digits of the SHA-256 of the picture that is sent of a small PNG: a JPEG of its pixels."""
    stream = io.BytesIO()
    Image.open(photos / f"{number}.png").save(stream, "JPEG", quality=90)
    return hashlib.sha256(stream.getvalue()).hexdigest()[:8]


def commit_counts(store):
    commits = layout.load_commits(str(store), layout.committed_shards(str(store)))
    return {
        name: sum(commit.counts.get(name, 0) for commit in commits)
        for name in ("requests", "answers_copied", "answers_kept")
    }


def test_an_unnamed_prompt_fills_captions(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    with scripted_endpoint() as server:
        prices = "--price-per-million-tokens", "1000000,2000000"
        assert caption(photos, server, tmp_path / "store", *ONE, "--system", "Be brief.", *prices) == 0
    assert rows(tmp_path / "store", "captions") == {
        f"{number}.png": {"captions": [f"Describe it. of {sent(photos, number)}"]} for number in range(IMAGES)
    }
    (failure,) = Store.open(str(tmp_path / "store")).failures().to_pylist()
    assert (failure["image_id"], failure["stage"]) == ("broken.png", "decode")
    request = server.requests[0]
    assert [said["role"] for said in request.json["messages"]] == ["system", "user"]
    assert request.headers["Authorization"] == "Bearer a-secret-key"
    assert "a-secret-key" not in everything(tmp_path / "store")
    assert not files.names(f"{tmp_path}/store/answers") or not list(
        (tmp_path / "store/answers").rglob("*.parquet")
    )  # the commits have them
    (batch,) = list(Store.open(str(tmp_path / "store")).scan(["captions"]))[:1]
    (answer,) = batch.to_pylist()[0]["captions"]
    assert {**answer, "text": "", "tokens_in": 0, "tokens_out": 0} == {
        "text": "", "finish_reason": "stop", "tokens_in": 0, "tokens_out": 0, "model": "scripted",
    }  # fmt: skip
    totals = json.loads(next((tmp_path / "store/plans").glob("*/totals.json")).read_text())["endpoint"]
    assert (totals["requests"], totals["retries"]) == (IMAGES, 0)
    assert totals["cost"] == totals["tokens_in"] + 2 * totals["tokens_out"] > 0
    assert "cost of tokens" in capsys.readouterr().out


def everything(folder):
    """All text in a store's files, and in the strings of its Parquet files."""
    return "".join(path.read_bytes().decode("latin1") for path in folder.rglob("*") if path.is_file())


def test_named_prompts_have_columns_and_fingerprints(photos, tmp_path):
    with scripted_endpoint() as server:
        done = Caption(
            sources=[photos], captioner=f"openai:{server.url}", model="scripted", output=tmp_path / "store",
            prompt={"colour": "Which colour?", "short": "In a word?"}, warn_failures=1.0,
        ).run()  # fmt: skip
    assert done.status == 0
    assert rows(tmp_path / "store", "colour", "short")["3.png"] == {
        "colour": [f"Which colour? of {sent(photos, 3)}"],
        "short": [f"In a word? of {sent(photos, 3)}"],
    }
    assert len(server.requests) == 2 * IMAGES
    batch = next(Store.open(str(tmp_path / "store")).scan())
    prompts = {field.metadata[b"captionbeam.prompt"] for field in batch.schema if field.metadata}
    assert len(prompts) == 2


def test_a_further_prompt_asks_only_itself(photos, tmp_path, capsys):
    """Once per image, in a refresh: the other prompt's answers are copied, whatever the server says by now."""
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(photos, server, store, "--prompt", "colour=Which colour?") == 0
        before = rows(store, "colour")
        server.requests.clear()
        server.reply = lambda request: Reply(f"new {request.prompt}")
        assert refresh(store, *TWO) == 2  # a redo is asked for by name
        assert "answers to the unchanged prompt colour are copied" in capsys.readouterr().err
        assert refresh(store, *TWO, "--redo") == 0
    assert {request.prompt for request in server.requests} == {"In a word?"}
    assert len(server.requests) == IMAGES
    after = rows(store, "colour", "short")
    assert {name: row["colour"] for name, row in after.items()} == {
        name: row["colour"] for name, row in before.items()
    }
    assert {row["short"][0] for row in after.values()} == {"new In a word?"}
    assert commit_counts(store)["answers_copied"] == IMAGES


def test_a_changed_prompt_is_asked_again(photos, tmp_path):
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(photos, server, store, *TWO) == 0
        server.requests.clear()
        assert refresh(store, "--prompt", "colour=Which colours?", *TWO[2:], "--redo") == 0
        assert [request.prompt for request in server.requests] == ["Which colours?"] * IMAGES
        server.requests.clear()
        assert refresh(store) == 0
    assert server.requests == []
    assert rows(store, "colour", "short")["0.png"]["colour"] == [f"Which colours? of {sent(photos, 0)}"]


def test_another_address_of_the_same_model_asks_nothing(photos, tmp_path):
    store = tmp_path / "store"
    with scripted_endpoint() as server:
        assert caption(photos, server, store, *ONE) == 0
    with scripted_endpoint() as other:
        assert refresh(store, "--captioner", f"openai:{other.url}") == 0
        assert other.requests == []


@pytest.mark.parametrize("failing", ["Which colour?", "In a word?"])
def test_a_failed_prompt_is_one_failure_and_the_other_answer_is_kept(photos, tmp_path, failing):
    store = tmp_path / "store"

    def one_is_rejected(request):
        rejected = request.prompt == failing and request.digest.startswith(sent(photos, 2))
        return Reply("too rude", status=400) if rejected else default_reply(request)

    with scripted_endpoint(reply=one_is_rejected) as server:
        assert caption(photos, server, store, *TWO) == 0
        failures = {row["image_id"]: row for row in Store.open(str(store)).failures().to_pylist()}
        assert failures.keys() == {"2.png", "broken.png"}
        assert (failures["2.png"]["stage"], failures["2.png"]["code"]) == ("model", "rejected")
        assert "too rude" in failures["2.png"]["message"]
        server.requests.clear()
        server.reply = default_reply
        assert caption(photos, server, store, *TWO, "--retry-failures") == 0
    assert [request.prompt for request in server.requests] == [failing]
    assert rows(store, "colour", "short")["2.png"]["colour"] == [f"Which colour? of {sent(photos, 2)}"]


def test_systemic_errors_are_one_sentence_and_lose_nothing(photos, tmp_path, capsys):
    store = tmp_path / "store"

    def after_three(request):
        return default_reply(request) if len(server.requests) <= 3 else Reply("bad key", status=401)

    with scripted_endpoint(reply=after_three) as server:
        assert caption(photos, server, store, *ONE, "--concurrency", 1) == 1
        said = capsys.readouterr().err
        assert "OPENAI_API_KEY" in said
        assert "Traceback" not in said
        server.reply = default_reply
        server.requests.clear()
        assert caption(photos, server, store, *ONE) == 0
    assert len(server.requests) == IMAGES - 3


def test_json_answers_are_typed(photos, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps({
        "type": "object", "required": ["title", "count"],
        "properties": {"title": {"type": "string"}, "count": {"type": "integer"}},
    }))  # fmt: skip
    answer = Reply('{"title": "a cat", "count": 2}')
    with scripted_endpoint(reply=lambda request: answer) as server:
        schema = "--schema", tmp_path / "schema.json"
        assert caption(photos, server, tmp_path / "store", *ONE, *schema, "--publish-anyway") == 0
    assert server.requests[0].json["response_format"]["type"] == "json_schema"
    values = [
        row["captions"][0]["value"]
        for batch in Store.open(str(tmp_path / "store")).scan(["captions"])
        for row in batch.to_pylist()
    ]
    assert values == [{"title": "a cat", "count": 2}] * IMAGES


def test_urls_are_sent_instead_of_pictures(tmp_path):
    (tmp_path / "list.txt").write_text("https://example.com/a.jpg\nhttps://example.com/b.jpg\n")
    with scripted_endpoint() as server:
        assert caption(tmp_path / "list.txt", server, tmp_path / "store", *ONE, "--send-urls") == 0
    assert {request.picture for request in server.requests} == {
        "https://example.com/a.jpg", "https://example.com/b.jpg",
    }  # fmt: skip


def test_captions_are_printed_without_a_store(photos, capsys):
    with scripted_endpoint() as server:
        arguments = ["--captioner", f"openai:{server.url}", "--model", "scripted", *ONE]
        assert cli.main(["caption", str(photos / "1.png"), *arguments]) == 0
    assert capsys.readouterr().out == f"Describe it. of {sent(photos, 1)}\n"


def test_a_seed_of_0_is_sent_and_recorded_if_it_is_given(photos, tmp_path):
    def seeds(server):
        found = {request.json.get("seed") for request in server.requests}
        server.requests.clear()
        return found

    with scripted_endpoint() as server:
        assert caption(photos, server, tmp_path / "none", *ONE, "--limit", 2) == 0
        assert seeds(server) == {None}
        assert caption(photos, server, tmp_path / "store", *ONE, "--seed", 0, "--limit", 2) == 0
        assert seeds(server) == {0}
        assert cli.main(["refresh", str(tmp_path / "store")]) == 0  # with the same fingerprint
        assert seeds(server) == set()


def test_a_plan_leaves_copied_answers_out_of_its_estimate(photos, tmp_path, capsys):
    """Each answer costs 100 and 10 tokens; the run that added a prompt asked only that one."""
    with scripted_endpoint(reply=lambda request: Reply("a b", tokens=(100, 10))) as server:
        store, three = tmp_path / "store", [*TWO, "--prompt", "mood=The mood?"]
        assert caption(photos, server, store, *TWO) == 0
        images = len(server.requests) // 2
        assert refresh(store, *three, "--redo") == 0
        changed = ["--prompt", "alt=New?", "--prompt", "mood=Newer?", "--prompt", "colour=Newest?"]
        capsys.readouterr()
        prices = "--price-per-million-tokens", "1000000,1000000"
        assert refresh(store, *changed, "--redo", "--plan", *prices) == 0
    said = capsys.readouterr().out
    assert f"{3 * images * 100:,} sent, {3 * images * 10:,} generated" in said


def test_a_canary_extrapolates_tokens_and_money(photos, tmp_path, capsys):
    with scripted_endpoint(reply=lambda request: Reply("a b", tokens=(100, 10))) as server:
        assert caption(photos, server, tmp_path / "store", *ONE, "--publish-anyway", "--limit", 1) == 0
        server.requests.clear()
        prices = "--price-per-million-tokens", "1000,10000"
        arguments = refresh_arguments(photos, tmp_path / "store", "--canary", 2, *prices)
        assert cli.main(arguments) == 0
    assert len(server.requests) == 2
    said = capsys.readouterr().out
    assert "600 sent, 60 generated" in said  # of the six images that are left
    assert "1.20" in said  # 600 at 1,000 a million, 60 at 10,000


def test_a_canary_of_a_further_prompt_asks_and_prices_only_that(photos, tmp_path, capsys):
    store = tmp_path / "store"
    with scripted_endpoint(reply=lambda request: Reply("a b", tokens=(100, 10))) as server:
        assert caption(photos, server, store, "--prompt", "colour=Which colour?", "--publish-anyway") == 0
        server.requests.clear()
        assert refresh(store, *TWO, "--redo", "--canary", 3) == 0
        assert {request.prompt for request in server.requests} == {"In a word?"}
        server.requests.clear()
        assert refresh(store, *TWO, "--redo", "--plan", "--price-per-million-tokens", "1,1") == 0
    assert server.requests == []
    said = capsys.readouterr().out
    assert "answers to unchanged ones are copied" in said
    assert "cost of all tokens" in said


def test_a_prompt_is_dropped_with_its_schema(photos, tmp_path):
    store = tmp_path / "store"
    (tmp_path / "schema.json").write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    with scripted_endpoint(reply=lambda request: Reply('{"a": "b"}')) as server:
        schema = "--schema", f"colour={tmp_path}/schema.json"
        assert caption(photos, server, store, *TWO, *schema, "--publish-anyway") == 0
        server.requests.clear()
        assert refresh(store, *TWO[2:], "--redo", "--publish-anyway") == 0
    assert server.requests == []
    assert Store.open(str(store)).columns == ("short",)


def refresh_arguments(photos, store, *more):
    return [str(each) for each in ("refresh", photos, "--output", store, "--warn-failures", 1, *more)]


@pytest.mark.parametrize(("arguments", "sentence"), [
    ((), "needs a --prompt"),
    (("--prompt", "a=x", "--prompt", "b"), "the prompt 'b' has no name"),
    (("--prompt", "a=x", "--prompt", "a=y"), "two prompts are named 'a'"),
    (("--prompt", "URI=x"), "a prompt is named 'URI'"),
    (("--prompt", "a=x", "--prompt", "A=y"), "two prompts are named 'A'"),
    (("--prompt", "x", "--captioner", "openai:https://host/v1#sk-secret"), "OPENAI_API_KEY"),
    (("--prompt", "x", "--captioner", "openai:me:secret@host/v1"), "is no URL"),
    (("--prompt", "x", "--captioner", "openai:http://[::1/v1"), "is no URL"),
    (("--prompt", "x", "--captioner", "openai:https://me:secret@host/v1"), "OPENAI_API_KEY"),
    (("--prompt", "x", "--captioner", "openai:localhost"), "is no URL"),
    (("--prompt", "x", "--schema", "b=s.json"), "--schema names 'b'"),
    (("--prompt", "x", "--price-per-million-tokens", "1"), "expected two"),
    (("--prompt", "x", "--captioner", "hf:blip"), "--model is for endpoints"),
])  # fmt: skip
def test_wrong_requests_are_one_sentence(photos, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text('{"type": "string"}')
    start = ["caption", str(photos), "--captioner", "openai:http://127.0.0.1:9/v1", "--model", "m",
             "--output", str(tmp_path / "store")]  # fmt: skip
    assert cli.main([*start, *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "secret" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("prompts", [ONE, TWO])
def test_failures_are_retried_at_the_recorded_address(photos, tmp_path, prompts):
    def refusing(request):
        refused = request.digest.startswith(sent(photos, 3))
        return Reply(status=400, text="not today") if refused else default_reply(request)

    with scripted_endpoint(refusing) as server:
        assert caption(photos, server, tmp_path / "store", *prompts) == 0
        before = Store.open(str(tmp_path / "store"))
        assert {row["image_id"] for row in before.failures().to_pylist()} == {"3.png", "broken.png"}
        server.reply = default_reply
        retry = ["store", "retry-failures", str(tmp_path / "store"), "--all", "--warn-failures", "1"]
        assert cli.main([*retry, "--concurrency", "2"]) == 0
    after = Store.open(str(tmp_path / "store"))
    assert {row["image_id"] for row in after.failures().to_pylist()} == {"broken.png"}
    assert after.fingerprint == before.fingerprint
    found = rows(tmp_path / "store", *after.columns)
    assert sorted(found) == [f"{number}.png" for number in range(IMAGES)]
    texts = {"captions": "Describe it.", "colour": "Which colour?", "short": "In a word?"}
    assert found["3.png"] == {name: [f"{texts[name]} of {sent(photos, 3)}"] for name in after.columns}


def test_several_prompts_are_printed_with_their_names(photos, capsys):
    with scripted_endpoint() as server:
        how = ["--captioner", f"openai:{server.url}", "--model", "scripted"]
        assert cli.main(["caption", str(photos / "0.png"), str(photos / "1.png"), *how, *TWO]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{number}.png\t{name}\t{text} of {sent(photos, number)}"
        for number in (0, 1)
        for name, text in (("colour", "Which colour?"), ("short", "In a word?"))
    ]
