"""Requests to an endpoint, against a scripted server: what is sent, what is retried, and what each error means."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate

import httpx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.client.chat import ChatClient
from captionbeam.pipelines.endpoints.client.pace import Pace
from captionbeam.pipelines.endpoints.client.replies import Completion, Transient, answers_of, completion_of
from captionbeam.pipelines.endpoints.client.tries import FIRST_ANSWERS
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.schemas.errors import ImageError, SystemicError
from tests.builders.running.commands import ROOT, environment
from tests.builders.web.endpoint import Reply, default_reply, in_turn, scripted_endpoint
from tests.builders.web.servers import free_port

PICTURE = "data:image/jpeg;base64,/9j/2Q=="
DIGEST = hashlib.sha256(base64.b64decode(PICTURE.partition(",")[2])).hexdigest()[:8]
SCHEMA = {"type": "object", "properties": {"dogs": {"type": "integer"}}, "required": ["dogs"]}
KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def spec_of(schema=None, **options):
    prompt = {"text": "Describe."} | ({} if schema is None else {"schema": schema})
    return EndpointSpec(endpoint="tiny", prompts={"captions": prompt}, **options)


@contextmanager
def asking(url, spec=None, timeout=5.0, patience=0.5, first_wait=0.01, **options):
    """A function that asks the spec's prompt about a picture; ``counts`` are its counts."""
    spec = spec or spec_of()
    pace, counts = Pace(None, None), Counter()
    client = ChatClient(url, spec, pace, 4, timeout, patience=patience, first_wait=first_wait, **options)

    def ask(picture=PICTURE, at=0):
        return client.ask(picture, prompts_of(spec)[at], counts)

    ask.counts, ask.client, ask.pace = counts, client, pace
    try:
        yield ask
    finally:
        client.close()


@contextmanager
def served(*replies, spec=None, always=None, **options):
    """``asking`` a server that gives the replies in turn, or the same ``always``."""
    reply = in_turn(*replies) if always is None else lambda _: always
    with scripted_endpoint(reply) as server, asking(server.url, spec, **options) as ask:
        ask.server = server
        yield ask


def fails(ask, code):
    with pytest.raises(ImageError) as info:
        ask()
    assert (info.value.code, info.value.stage) == (code, "model")
    return info.value.message


def stops(ask):
    with pytest.raises(SystemicError) as info:
        ask()
    return str(info.value)


# ---- what is sent, and what comes back


def test_an_answer_has_its_text_tokens_reason_and_the_models_name():
    with served(Reply(" a dog\n", model="tiny-v2", tokens=(1024, 7))) as ask:
        (answer,) = ask()
    assert answer == {
        "text": "a dog",
        "finish_reason": "stop",
        "tokens_in": 1024,
        "tokens_out": 7,
        "model": "tiny-v2",
    }
    assert ask.counts == {"requests": 1, "tokens_in": 1024, "tokens_out": 7}


def test_a_request_has_the_model_the_prompt_and_the_picture_and_no_option_that_is_not_given():
    with served() as ask:
        ask()
    (request,) = ask.server.requests
    user = [{"type": "text", "text": "Describe."}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    assert request.json == {"model": "tiny", "messages": [{"role": "user", "content": user}]}
    assert "authorization" not in request.headers


def test_all_options_are_sent():
    options = {"system": "Be brief.", "max_new_tokens": 50, "temperature": 0.5, "seed": 3, "n_best": 2}
    with served(spec=spec_of(**options)) as ask:
        ask()
    sent = dict(ask.server.requests[0].json)
    assert sent.pop("messages")[0] == {"role": "system", "content": "Be brief."}
    assert sent == {"model": "tiny", "max_tokens": 50, "temperature": 0.5, "seed": 3, "n": 2}


def test_a_pictures_url_is_sent_as_it_is():
    with served() as ask:
        ask("https://images.example/a.jpg")
    assert ask.server.requests[0].picture == "https://images.example/a.jpg"


def test_the_key_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with served() as ask:
        ask()
    assert ask.server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_the_address_keeps_its_query():
    with scripted_endpoint() as server, asking(f"{server.url}/?api-version=7") as ask:
        assert ask()[0]["text"] == f"Describe. of {DIGEST}"


def test_a_server_that_knows_only_max_completion_tokens_is_asked_with_it():
    def reply(request):
        if "max_tokens" in request.json:
            return Reply("Unsupported parameter: use 'max_completion_tokens' instead.", 400)
        return default_reply(request)

    with scripted_endpoint(reply) as server, asking(server.url, spec_of(max_new_tokens=9)) as ask:
        ask()
        ask()
    assert [request.json.get("max_completion_tokens") for request in server.requests] == [None, 9, 9]


def test_several_answers_are_kept_in_order_with_the_tokens_at_the_first():
    with served(Reply(["a", "b"], tokens=(10, 4)), spec=spec_of(n_best=3)) as ask:
        found = ask()
    assert [(each["text"], each["tokens_in"], each["tokens_out"]) for each in found] == [
        ("a", 10, 4),
        ("b", None, None),
    ]


def test_of_several_answers_the_usable_ones_are_kept():
    with served(Reply(["", None, "b"]), spec=spec_of(n_best=3)) as ask:
        assert [each["text"] for each in ask()] == ["b"]


# ---- errors of one image


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_rejected_image_fails_with_the_servers_sentence(status):
    with served(Reply("image too small: 1 x 1", status)) as ask:
        assert fails(ask, "rejected") == "image too small: 1 x 1"
        assert ask()[0]["text"] == f"Describe. of {DIGEST}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"detail": "bad picture"}', "bad picture"),
        (b'{"detail": [{"msg": "bad"}, {"msg": "worse"}]}', "bad; worse"),
        (b'{"object": "error", "message": "bad"}', "bad"),
        (b'{"error": "bad"}', "bad"),
        (b"no JSON", "no JSON"),
        (b"", "status 400"),
        (b'{"error": {"message": "not data:image/jpeg;base64,/9j/4AAQ=="}}', "not data:..."),
    ],
)
def test_a_servers_sentence_is_found_in_every_servers_form(body, said):
    with served(Reply(status=400, raw=body)) as ask:
        assert fails(ask, "rejected") == said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("blocked", 400, code="content_filter"), "blocked"),
        (Reply(None, refusal="I cannot help with that."), "I cannot help with that."),
        (Reply("half of", finish_reason="content_filter"), "finish_reason content_filter"),
    ],
)
def test_a_refusal_has_a_code_of_its_own(reply, said):
    with served(reply) as ask:
        assert fails(ask, "refused") == said


@pytest.mark.parametrize("text", ["", "  \n", None, []])
def test_an_empty_answer_is_none(text):
    with served(Reply(text)) as ask:
        fails(ask, "no_answer")


def test_an_answer_that_is_cut_off_names_the_tokens_and_the_option():
    with served(
        Reply("a dog in", finish_reason="length", tokens=(9, 16)), spec=spec_of(max_new_tokens=16)
    ) as ask:
        said = "the answer ends after 16 tokens; expected it to end within --max-new-tokens 16"
        assert fails(ask, "cut_off") == said


# ---- answers that no server should give


def completion(choice=None, message=None, **parts):
    """The body of a completion, of which some parts are replaced."""
    said = {"role": "assistant", "content": "a dog"} | (message or {})
    body = {
        "model": "tiny",
        "choices": [{"message": said, "finish_reason": "stop"} | (choice or {})],
        **parts,
    }
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("raw", "odd"),
    [
        (completion(usage=[1]), {}),
        (completion(usage="a"), {}),
        (completion(usage={"prompt_tokens": 10**30, "completion_tokens": True}), {}),
        (completion(usage={"prompt_tokens": 1 << 31, "completion_tokens": -1}), {}),
        (completion(usage={"prompt_tokens": "7", "completion_tokens": 2.0}), {}),
        (completion(usage={"prompt_tokens": (1 << 31) - 1}), {"tokens_in": (1 << 31) - 1}),
        (completion({"finish_reason": 5}), {"finish_reason": None}),
        (completion({"finish_reason": "st\ud800p"}), {"finish_reason": "st\N{REPLACEMENT CHARACTER}p"}),
        (completion(message={"content": "a \ud800dog"}), {"text": "a \N{REPLACEMENT CHARACTER}dog"}),
        (completion(message={"content": [{"text": 5}, 5, {"text": "a cat"}]}), {"text": "a cat"}),
        (completion(model="\udfff"), {"model": "\N{REPLACEMENT CHARACTER}"}),
        (completion(model=[1]), {"model": None}),
    ],
)  # fmt: skip
def test_an_answer_is_kept_without_the_parts_that_are_wrong(raw, odd):
    with served(Reply(raw=raw)) as ask:
        (answer,) = ask()
    plain = {"text": "a dog", "finish_reason": "stop", "tokens_in": None, "tokens_out": None, "model": "tiny"}
    assert answer == plain | odd
    assert pa.array([[answer]], prompts_of(spec_of())[0].field.type).to_pylist() == [[answer]]


@pytest.mark.parametrize(
    ("raw", "code", "said"),
    [
        (completion({"message": "hello"}), "no_answer", 'the message is "hello"; expected an object'),
        (completion({"message": [1]}), "no_answer", "the message is [1]; expected an object"),
        (
            completion(message={"content": [{"text": 5}]}),
            "no_answer",
            "the answer is empty (finish_reason stop)",
        ),
        (completion(message={"refusal": {"why": "\ud800"}}), "refused", '{"why": "\\ud800"}'),
        (completion(message={"refusal": "no\ud800\n"}), "refused", "no\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_completion_without_an_answer_fails_alone(raw, code, said):
    with served(Reply(raw=raw)) as ask:
        assert fails(ask, code) == said
        assert ask()[0]["text"] == f"Describe. of {DIGEST}"


def test_an_endpoint_that_answers_others_may_have_no_completion_for_one_image():
    replies = [Reply(raw=b'{"choices": "none"}')] * 4
    with served(Reply("a dog"), *replies, patience=0.01) as ask:
        ask()
        assert "status 200 without a chat completion: {" in fails(ask, "unavailable")
        ask()


NAMES = st.sampled_from(
    [
        "choices",
        "message",
        "content",
        "text",
        "refusal",
        "finish_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "model",
        "error",
        "code",
        "type",
        "detail",
        "msg",
        "innererror",
    ]
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["429", "503", "stop", "length", "content_filter", "\ud800", 10**30, "model_not_found"])
)
BODIES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
CHOICES = st.lists(
    st.fixed_dictionaries({"message": BODIES, "finish_reason": VALUES}), min_size=1, max_size=2
)
COMPLETIONS = st.fixed_dictionaries({"choices": CHOICES, "usage": BODIES, "model": VALUES})


@settings(max_examples=300, deadline=None)
@given(
    (BODIES | COMPLETIONS).map(lambda body: json.dumps(body).encode()) | st.binary(max_size=20),
    st.sampled_from([200, 200, 200, 400, 404, 429, 500]),
    st.sampled_from([{}, {"Content-Type": "text/html; charset=hex"}, {"retry-after-ms": "nan"}, {"Retry-After": "x"}]),
)  # fmt: skip
def test_whatever_an_endpoint_answers_is_an_answer_or_one_of_our_errors(body, status, headers):
    (prompt,) = prompts_of(spec_of())
    try:
        found = completion_of(httpx.Response(status, content=body, headers=headers))
        assert isinstance(found, Completion)
        answers = answers_of(found, prompt, None)
    except (Transient, ImageError, SystemicError):
        return
    assert pa.array([answers], prompt.field.type).to_pylist() == [answers]


# ---- JSON


def test_json_is_asked_for_by_its_schema_and_kept_as_a_value():
    with served(Reply('{"dogs": 2}'), spec=spec_of(SCHEMA)) as ask:
        (answer,) = ask()
    assert (answer["text"], answer["value"]) == ('{"dogs": 2}', {"dogs": 2})
    assert ask.server.requests[0].json["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "captions", "schema": SCHEMA, "strict": False},
    }


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA | {"additionalProperties": False}, True),
        (SCHEMA | {"additionalProperties": False, "required": []}, False),
        ({"type": "array", "items": SCHEMA}, False),
        ({"type": "array", "items": {"enum": ["a"]}}, True),
    ],
)
def test_a_schema_is_strict_where_openai_takes_it_so(schema, strict):
    with served(Reply('{"dogs": 2}'), Reply('["a"]'), spec=spec_of(schema)) as ask, suppress(ImageError):
        ask()
    assert ask.server.requests[0].json["response_format"]["json_schema"]["strict"] is strict


def test_an_answer_that_breaks_the_schema_is_asked_for_once_more():
    with served(Reply("two dogs"), Reply('{"dogs": 2}'), spec=spec_of(SCHEMA)) as ask:
        assert ask()[0]["value"] == {"dogs": 2}
    assert (ask.counts["requests"], ask.counts["retries"]) == (2, 1)


def test_the_second_question_has_the_next_seed():
    """A server with a seed gives the same answer to the same request."""

    def reply(request):
        return Reply('{"dogs": 2}' if request.json["seed"] == 8 else "two dogs")

    with scripted_endpoint(reply) as server, asking(server.url, spec_of(SCHEMA, seed=7)) as ask:
        assert [ask()[0]["value"], ask()[0]["value"]] == [{"dogs": 2}] * 2
    assert [request.json["seed"] for request in server.requests] == [7, 8, 7, 8]


def test_an_answer_that_breaks_the_schema_twice_fails():
    with served(always=Reply('{"dogs": "two"}'), spec=spec_of(SCHEMA)) as ask:
        fails(ask, "invalid_json")
    assert len(ask.server.requests) == 2


def test_an_endpoint_that_ignores_the_schema_stops_the_run():
    with served(always=Reply("two dogs"), spec=spec_of(SCHEMA)) as ask:
        for _ in range(FIRST_ANSWERS // 2 - 1):
            fails(ask, "invalid_json")
        assert "heeds response_format" in stops(ask)
    assert len(ask.server.requests) == FIRST_ANSWERS


def test_one_valid_answer_shows_that_the_endpoint_heeds_the_schema():
    replies = [Reply('{"dogs": 2}'), *[Reply("two dogs")] * 2 * FIRST_ANSWERS]
    with served(*replies, spec=spec_of(SCHEMA)) as ask:
        ask()
        for _ in range(FIRST_ANSWERS):
            fails(ask, "invalid_json")


def test_each_prompt_has_first_answers_of_its_own():
    """One prompt's schema may be beyond the model, though it heeds the others'."""

    def reply(request):
        return Reply('{"dogs": 2}' if request.prompt == "easy" else "two dogs")

    prompts = {text: {"text": text, "schema": SCHEMA} for text in ("easy", "hard")}
    spec = EndpointSpec(endpoint="tiny", prompts=prompts)
    with scripted_endpoint(reply) as server, asking(server.url, spec) as ask:
        for _ in range(FIRST_ANSWERS // 2 - 1):
            ask(at=0)
            with pytest.raises(ImageError):
                ask(at=1)
        ask(at=0)
        with pytest.raises(
            SystemicError, match=f"the first {FIRST_ANSWERS} answers .* schema of prompt hard"
        ):
            ask(at=1)


# ---- what is waited out


STALE = Reply("x", cut=0)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("slow down", 429),
        Reply("broken", 500),
        Reply("restarting", 503),
        Reply("x", cut=0),
        Reply("x", cut=20),
        Reply(raw=b"<html>restarting</html>"),
        Reply(raw=b'{"error": {"code": 502, "message": "upstream"}}'),
        Reply(raw=b'{"error": {"code": "429", "message": "slow down"}}'),
    ],
    ids=["429", "500", "503", "no-answer", "cut", "html", "error-in-200", "text-in-200"],
)
def test_what_may_pass_is_tried_again(reply):
    with served(reply, reply) as ask:
        assert ask()[0]["text"] == f"Describe. of {DIGEST}"
    assert (ask.counts["requests"], ask.counts["retries"]) == (3, 2)


def test_a_request_without_an_answer_is_repeated():
    with served(Reply("late", delay=30), timeout=0.2) as ask:
        assert ask()[0]["text"] == f"Describe. of {DIGEST}"


@pytest.mark.parametrize(
    "headers",
    [
        lambda: {"Retry-After": "1"},
        lambda: {"Retry-After": formatdate(time.time() + 2, usegmt=True)},
        lambda: {"retry-after-ms": "1000"},
    ],
    ids=["seconds", "date", "milliseconds"],
)
def test_the_server_is_given_the_time_it_asks_for(headers):
    with served(Reply("slow down", 429, headers=headers())) as ask:
        ask()
    first, second = ask.server.requests
    assert 0.95 < second.time - first.time < 4


def test_a_429_holds_back_all_threads():
    """The others are asked to wait by the first one's answer."""
    limited = threading.Event()

    def reply(request):
        if not limited.is_set():
            limited.set()
            return Reply("slow down", 429, headers={"Retry-After": "1"})
        return default_reply(request)

    with scripted_endpoint(reply) as server, asking(server.url) as ask, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask)
        limited.wait()
        time.sleep(0.3)
        others = [pool.submit(ask) for _ in range(3)]
        for each in [first, *others]:
            each.result()
    times = [request.time for request in server.requests]
    assert len(times) == 5
    assert all(0.95 < each - times[0] < 4 for each in times[1:])


def test_a_server_that_is_away_for_a_while_loses_nothing():
    port = free_port()
    with asking(f"http://127.0.0.1:{port}/v1", patience=20) as ask, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        time.sleep(0.5)
        with scripted_endpoint(port=port):
            assert asked.result(30)[0]["text"] == f"Describe. of {DIGEST}"


def test_a_server_that_is_started_again_elsewhere_is_found():
    places = []
    with ExitStack() as stack:
        with scripted_endpoint() as first:
            places.append(first.url)
            ask = stack.enter_context(asking(first.url, reconnect=lambda: places[-1]))
            ask()
        with scripted_endpoint() as second:
            places.append(second.url)
            ask()
        assert (len(first.requests), len(second.requests)) == (1, 1)


def test_a_picture_that_the_server_never_answers_fails_alone():
    def reply(request):
        return Reply("broken", 500) if request.picture == b"bad" else default_reply(request)

    with scripted_endpoint(reply) as server, asking(server.url) as ask, ThreadPoolExecutor(2) as pool:
        bad = pool.submit(ask, "data:image/jpeg;base64,YmFk")
        ask()
        with pytest.raises(ImageError) as info:
            bad.result()
    assert (info.value.code, info.value.stage) == ("unavailable", "model")
    assert "status 500: broken, in " in info.value.message


def test_a_picture_that_times_out_always_fails_alone():
    with served(*[Reply("late", delay=30)] * 4, timeout=0.2) as ask:
        assert "no answer within 0.2 s, in 4 tries" in fails(ask, "timeout")
        ask()


def test_an_error_in_a_200_counts_by_its_code():
    with served(Reply(raw=b'{"error": {"code": "429"}}', headers={"Retry-After": "1"})) as ask:
        ask()
        first, second = ask.server.requests
        assert second.time - first.time > 0.95
    with served(Reply(raw=b'{"error": {"code": "403", "message": "not allowed"}}')) as ask:
        assert "answers status 403: not allowed" in stops(ask)


def test_a_server_that_has_not_answered_yet_is_told_once(caplog):
    url = f"http://127.0.0.1:{free_port()}/v1"
    with asking(url, patience=0.2) as ask:
        stops(ask)
        stops(ask)
    (record,) = [record for record in caplog.records if record.name.startswith("captionbeam")]
    assert record.levelname == "WARNING"
    said = record.getMessage()
    assert said.startswith(f"the endpoint {url} (model tiny) does not answer: ")
    assert said.endswith("Connection refused; trying for 0.2 s")


def test_a_server_that_has_answered_is_waited_for_without_a_warning(caplog):
    with served(Reply("a dog"), Reply("broken", 500)) as ask:
        ask()
        ask()
    assert not [record for record in caplog.records if record.name.startswith("captionbeam")]


# ---- what stops the run


def test_a_server_that_does_not_exist_stops_the_run():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with asking(url) as ask:
        assert f"the endpoint {url} (model tiny) does not answer: " in stops(ask)
        assert "Connection refused" in stops(ask)


def test_a_server_that_cannot_be_reached_at_first_has_its_own_patience(caplog):
    with asking(f"http://127.0.0.1:{free_port()}/v1", patience=60, first_patience=0.1) as ask:
        assert "Connection refused" in stops(ask)
    assert caplog.records[-1].getMessage().endswith("trying for 0.1 s")
    with served(Reply("broken", 500), Reply("a dog"), patience=60, first_patience=0) as ask:
        assert ask()[0]["text"] == "a dog"


def test_a_server_that_answers_nothing_but_500_stops_the_run_at_the_third_image():
    with served(always=Reply("broken", 500), patience=0.1) as ask:
        fails(ask, "unavailable")
        fails(ask, "unavailable")
        assert "does not answer: status 500: broken" in stops(ask)


def test_a_key_that_is_missing_or_wrong_is_named_without_its_value(monkeypatch):
    with served(Reply("no key", 401)) as ask:
        said = stops(ask)
        assert said.startswith(f"{ask.server.url} (model tiny) answers status 401: no key")
        assert "OPENAI_API_KEY is not set in the workers' environment" in said
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with served(Reply(f"key {KEY} is unknown", 401)) as ask:
        said = stops(ask)
        assert "key *** is unknown; OPENAI_API_KEY is not valid there" in said
        assert KEY not in said


@pytest.mark.parametrize(
    "reply",
    [
        Reply("the model `tiny` does not exist", 404, code="model_not_found"),
        Reply("the model `tiny` does not exist", 400, code="model_not_found"),
        Reply("no such page", 404),
        Reply("not allowed", 403),
        Reply("pay first", 429, code="insufficient_quota"),
        Reply("moved", 301),
    ],
)
def test_an_endpoint_that_cannot_answer_at_all_stops_the_run_at_once(reply):
    with served(reply) as ask:
        assert f"{ask.server.url} (model tiny) answers status {reply.status}: {reply.text}" in stops(ask)
    assert len(ask.server.requests) == 1


def test_an_address_that_gives_web_pages_stops_the_run():
    with served(always=Reply(raw=b"<html>hello</html>")) as ask:
        said = (
            "status 200 without a chat completion: <html>hello</html>; expected the base URL of OpenAI's API"
        )
        assert said in stops(ask)


def test_a_wrong_path_is_told_with_the_form_of_a_base_url():
    with served(Reply("no such page", 404)) as ask:
        assert "at the base URL of its API (ending in /v1)" in stops(ask)


@pytest.mark.parametrize("before", range(60, 300, 20))
@pytest.mark.parametrize("status", [200, 400, 403])
def test_a_key_at_the_place_where_a_sentence_is_cut_is_masked(monkeypatch, before, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reply = Reply(status=status, raw=b"x" * before + b" " + KEY.encode() + b"x" * 300)
    with served(*[reply] * 4) as ask, pytest.raises((ImageError, SystemicError)) as info:
        ask()
    assert "sk-s" not in str(info.value)


def test_a_request_that_is_always_rejected_stops_the_run():
    with served(always=Reply("n must be 1", 400)) as ask:
        for _ in range(FIRST_ANSWERS - 1):
            fails(ask, "rejected")
        assert f"rejects the first {FIRST_ANSWERS} requests: n must be 1" in stops(ask)


def test_images_that_are_rejected_for_different_reasons_do_not_stop_the_run():
    replies = [Reply(f"{n} x 1 pixels", 400) for n in range(2 * FIRST_ANSWERS)]
    with served(*replies) as ask:
        for _ in replies:
            fails(ask, "rejected")


@pytest.mark.parametrize("reply", [Reply("for hunter22 and tok-en42", 403), Reply("x tok-en42", 400)])
def test_passwords_and_tokens_of_the_address_are_never_told(reply, caplog):
    caplog.set_level(logging.DEBUG)
    with scripted_endpoint(in_turn(reply)) as server:
        url = server.url.replace("//", "//user:hunter22@") + "?token=tok-en42"
        with asking(url) as ask, pytest.raises((SystemicError, ImageError)) as info:
            ask()
    told = str(info.value) + "".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("httpx", "captionbeam"))
    )
    assert "hunter22" not in told
    assert "tok-en42" not in told


# ---- ends


def test_closing_ends_all_waits():
    replies = [Reply("late", delay=60), Reply("slow down", 429, headers={"Retry-After": "60"})]
    with served(*replies, timeout=60) as ask, ThreadPoolExecutor(3) as pool:
        asked = []
        for count in (1, 2):
            asked.append(pool.submit(ask))
            while len(ask.server.requests) < count:
                time.sleep(0.01)
        time.sleep(0.2)
        asked.append(pool.submit(ask))  # held back by the 429
        time.sleep(0.2)
        began = time.monotonic()
        ask.client.close()
        for each in asked:
            with pytest.raises(SystemicError, match="were stopped"):
                each.result()
        assert time.monotonic() - began < 5


def test_closing_is_no_failure_of_the_server(caplog):
    with served(Reply("late", delay=60), timeout=60) as ask, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        while not ask.server.requests:
            time.sleep(0.01)
        ask.client.close()
        with pytest.raises(SystemicError, match="were stopped"):
            asked.result()
    assert not [record for record in caplog.records if record.name.startswith("captionbeam")]


INTERRUPTED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.plan import Endpoint
from captionbeam.pipelines.endpoints.processor import EndpointCaptioner, Question

spec = EndpointSpec(endpoint="tiny", prompts={"captions": {"text": "x"}})
captioner = EndpointCaptioner(spec, Endpoint(url=sys.argv[1]))
pool = ThreadPoolExecutor(4)
question = Question("data:,", captioner.prompts, [""], {})
asked = [pool.submit(captioner.run, [question], ["a"]) for _ in range(4)]
print("asking", flush=True)
asked[0].result()
"""


@pytest.mark.engines
def test_an_interrupted_process_ends_at_once():
    """Its threads wait for answers, and for the end of a pause."""
    replies = [Reply("late", delay=60), Reply("slow down", 429, headers={"Retry-After": "60"})]
    with scripted_endpoint(in_turn(*replies * 2)) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE)
        while len(server.requests) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(2)
        _, errors = process.communicate(timeout=10)
    assert b"KeyboardInterrupt" in errors
