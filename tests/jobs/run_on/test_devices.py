"""``--device cpu,cpu``: two copies of a model, as on two GPUs, give the rows of one, and both compute."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from captionbeam.jobs import cli
from captionbeam.schemas import Store
from tests.builders.data.images import drawn, encoded
from tests.builders.model.chat_models import save_chat_model
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.model.transformers_models import save_model
from tests.builders.running.workers import one_engine_a_process

IMAGES = 12
ENCODER = ["--encoder", "efficientnet_lite0", "--image-size", 64, "--precision", "fp32"]
PROCESSES = ["--direct_num_workers", 2, "--direct_running_mode", "multi_processing"]


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        picture = encoded(drawn(60 + 5 * number, 90), "PNG")
        (folder / f"photos/{number:02d}.png").write_bytes(picture)
    save_chat_model(folder / "llava")
    save_model(folder / "blip")
    run("encode", folder / "photos", "--output", folder / "features", *ENCODER)
    store, tokenizer = Store.open(str(folder / "features")), make_tokenizer()
    (weights,) = Path(store.models_url).glob("*.safetensors")
    make_bundle(
        (dict(store.spec), str(weights)),
        decoder=make_decoder(tokenizer, store.shape),
        tokenizer=tokenizer,
        features_fingerprint=store.fingerprint,
    ).save(str(folder / "bundle"))
    return folder


def run(*arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0


def command(made, kind):
    photos = made / "photos"
    return {
        "encoder": ["encode", photos, *ENCODER],
        "bundle": ["caption", photos, "--bundle", made / "bundle"],
        "features": ["caption", "--features", made / "features", "--bundle", made / "bundle"],
        "transformers": ["caption", photos, "--captioner", f"hf:{made / 'blip'}"],
        "chat": ["caption", photos, "--captioner", f"hf:{made / 'llava'}", "--prompt", "which colours"],
    }[kind]


def rows(store):
    opened = Store.open(str(store))
    return {
        row["image_id"]: row[opened.column]
        for batch in opened.scan(["image_id", opened.column])
        for row in batch.to_pylist()
    }


@pytest.mark.parametrize("kind", ["encoder", "bundle", "features", "transformers", "chat"])
def test_the_same_rows_and_both_devices_are_used(made, tmp_path, kind):
    words, common = command(made, kind), ["--batch-size", 2, "--shard-size", 4]
    run(*words, *common, "--output", tmp_path / "one", "--device", "cpu", "--threads", 1)
    run(*words, *common, "--output", tmp_path / "two", "--device", "cpu,cpu", "--threads", 2)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert len(rows(tmp_path / "one")) == IMAGES
    (record,) = one_engine_a_process(tmp_path / "two", threads=2)
    assert record.devices.keys() == {"cpu#1", "cpu#2"}
    assert min(record.devices.values()) > 0


@pytest.mark.engines
def test_two_processes_have_one_device_each(made, tmp_path):
    words, common = command(made, "encoder"), ["--batch-size", 2, "--shard-size", 2, "--threads", 1]
    run(*words, *common, "--output", tmp_path / "one")
    run(*words, *common, "--output", tmp_path / "two", "--device", "cpu,cpu", *PROCESSES)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    records = one_engine_a_process(tmp_path / "two", threads=1, processes=2)
    assert sorted(name for record in records for name in record.devices) == ["cpu#1", "cpu#2"]
