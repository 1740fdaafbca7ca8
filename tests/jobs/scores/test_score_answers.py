"""Scores of answers to prompts: text and JSON of a scripted endpoint, scored by a tiny random CLIP."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from captionbeam.jobs import cli
from captionbeam.schemas import Store
from tests.builders.data.images import drawn
from tests.builders.model.scorers import save_scorer
from tests.builders.web.endpoint import Reply, scripted_endpoint

SCHEMA = {"type": "object", "properties": {"dogs": {"type": "integer"}}, "required": ["dogs"],
          "additionalProperties": False}  # fmt: skip
TEXTS = ("a dog runs", "two cats", "a red ball")


def reply(request):
    """Three choices for each picture and prompt."""
    return Reply(['{"dogs": 2}'] * 3 if request.prompt == "count" else TEXTS)


def run(*arguments, status=0):
    assert cli.main([str(argument) for argument in arguments]) == status


def answers(store):
    scan = Store.open(str(store)).scan(["image_id", "count", "plain"])
    return {row.pop("image_id"): row for batch in scan for row in batch.to_pylist()}


@pytest.fixture
def asked(tmp_path):
    """The endpoint, and in ``tmp_path`` the photographs and the store of its answers, as text and as JSON."""
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(drawn(40 + 9 * number, 60)).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    save_scorer(tmp_path / "clip")
    with scripted_endpoint(reply) as endpoint:
        run("caption", tmp_path / "photos", "--captioner", f"openai:{endpoint.url}", "--model", "scripted",
            "--prompt", "plain=describe", "--prompt", "count=count", "--schema", f"count={tmp_path / 'schema.json'}",
            "--n-best", 3, "--output", tmp_path / "store")  # fmt: skip
        yield endpoint


def test_answers_are_scored_without_asking_and_those_in_json_are_not(asked, tmp_path, capsys):
    store, photo, requests = tmp_path / "store", tmp_path / "photos/1.png", len(asked.requests)
    before = answers(store)
    photo.rename(tmp_path / "away.png")
    run("score", store, "--with", f"hf:{tmp_path / 'clip'}")
    found = answers(store)
    assert [one.pop("score") for one in found["1.png"]["plain"]] == [None] * 3
    (tmp_path / "away.png").rename(photo)
    run("score", store, "--with", f"hf:{tmp_path / 'clip'}")
    found = answers(store)
    assert all(one.pop("score") > 0 for row in found.values() for one in row["plain"])
    assert found == before
    run("score", store, "--with", f"hf:{tmp_path / 'clip'}")
    assert "nothing to do" in capsys.readouterr().out
    assert len(asked.requests) == requests


def test_rerank_orders_the_answers_that_a_store_has(asked, tmp_path):
    store, requests = tmp_path / "store", len(asked.requests)
    run("refresh", store, "--redo", "--rerank", f"hf:{tmp_path / 'clip'}")
    for row in answers(store).values():
        scores = {one["text"]: one["score"] for one in row["plain"]}
        assert list(scores) == sorted(TEXTS, key=scores.__getitem__, reverse=True)
    assert len(asked.requests) == requests
