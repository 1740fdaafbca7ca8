"""Photographs captioned through a real server of OpenAI's API: ``transformers serve`` with a tiny chat model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from captionbeam.jobs.scenes.files import draw_scenes
from captionbeam.pipelines.endpoints.servers import supervisor
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from tests.builders.model.chat_models import WORDS, save_chat_model
from tests.builders.running.processes import await_true
from tests.builders.running.zygote import captionbeam
from tests.builders.web.servers import serving

pytestmark = pytest.mark.engines
IMAGES = 12
TRANSFORMERS = f"{Path(sys.executable).parent}/transformers"
SERVE = [TRANSFORMERS, "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs (drawn scenes where there are none) and a model."""
    folder = tmp_path_factory.mktemp("made")
    for name, content in list(pictures())[:IMAGES]:
        files.write_atomic(str(folder / "photos" / name), content)
    (folder / "photos" / "broken.jpg").write_bytes(b"not a picture")
    save_chat_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_DISABLE_UPDATE_CHECK", "1")
        patch.setenv("TMPDIR", str(folder))
        yield folder


def pictures():
    if data := os.environ.get("CAPTIONBEAM_DATA"):
        for path in sorted(Path(data, "coco-mini/images").iterdir()):
            yield path.name, path.read_bytes()
    else:
        for scene in draw_scenes("train", IMAGES):
            yield scene.name, scene.jpeg


@pytest.fixture(scope="module")
def served(made):
    """The base URL of a running ``transformers serve``."""
    command = [word.replace("{model}", str(made / "model")) for word in SERVE]
    with serving(command, "/health") as address:
        yield f"{address}/v1"


def caption(made, captioner, *options):
    return ["caption", made / "photos", "--captioner", captioner, "--system", "two dogs", "--temperature", 0,
            "--max-new-tokens", 32, "--shard-size", 5, "--warn-failures", 1, *options]  # fmt: skip


def content(url):
    store = Store.open(str(url))
    rows = [row for batch in store.scan() for row in batch.to_pylist()]
    failures = [(row["image_id"], row["code"]) for row in store.failures().to_pylist()]
    return sorted(rows, key=lambda row: row["image_id"]), failures


PROMPTS = ["--prompt", "scene=describe the picture", "--prompt", "colours=which colours"]


def test_a_server_for_all_and_one_on_each_machine_give_the_same_rows(made, served, tmp_path):
    model = str(made / "model")
    captionbeam(*caption(made, f"openai:{served}", "--model", model, *PROMPTS, "--output", tmp_path / "a"))
    own = ["--server-command", " ".join(SERVE), *PROMPTS, "--output", tmp_path / "b"]
    captionbeam(*caption(made, f"vllm:{model}", *own))
    rows, failures = content(tmp_path / "a")
    assert (rows, failures) == content(tmp_path / "b")
    assert (len(rows), failures) == (IMAGES, [("broken.jpg", "unsupported")])
    for answer in (row[column] for row in rows for column in ("scene", "colours")):
        ((text, finish_reason, tokens_in, tokens_out, served_model),) = map(dict.values, answer)
        assert set(text.split()) <= set(WORDS)
        assert (finish_reason, served_model) == ("stop", model)
        assert tokens_in > 16  # the picture's
        assert tokens_out == len(text.split()) + 1  # the end
    assert len({row["scene"][0]["text"] for row in rows}) > 2
    await_true("the server's end", lambda: not servers(made))


def servers(made):
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(supervisor.MARK, "").startswith(str(made))
    ]
