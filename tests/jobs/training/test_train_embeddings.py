"""Training that begins with word vectors from a file."""

import json

import pytest
import torch

from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.request import resolve_options
from captionbeam.jobs.ui import terminal
from captionbeam.jobs.ui.training_view import TrainingView
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import sha256_file
from tests.builders.model.training import make_data, tiny_options, train_alone

WIDTH = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=12, val=2)


@pytest.fixture
def vectors(tmp_path):
    """Of "picture" and "seen", which the captions have, and of a word that they lack."""
    lines = [
        f"{word} {' '.join([str(number)] * WIDTH)}"
        for number, word in enumerate(["picture", "seen", "zebra"], 1)
    ]
    path = tmp_path / "some.vec"
    path.write_text("\n".join([f"3 {WIDTH}", *lines]) + "\n")
    return str(path)


def row(trainer, word):
    return trainer.decoder.embed.weight[trainer.data.tokenizer.encode(word)[1]].detach()


def test_words_begin_with_their_vectors_and_learn(data, tmp_path, vectors, capsys, monkeypatch):
    trainer, events = train_alone(tiny_options(data, tmp_path, epochs=1, embeddings=vectors))
    plain, _ = train_alone(tiny_options(data, tmp_path / "plain", epochs=1))
    assert not torch.allclose(row(trainer, "seen"), row(plain, "seen"))
    assert not row(trainer, "seen").eq(2).any()
    torch.testing.assert_close(row(trainer, "seen"), torch.full((WIDTH,), 2.0), atol=0.1, rtol=0)
    assert events[0]["vectors"] == (2, trainer.data.tokenizer.vocab_size - 4)
    monkeypatch.setattr(terminal, "_speaking", True)
    TrainingView(trainer.options).show(events[0])
    assert f"2 of {events[0]['vectors'][1]} tokens have a vector in {vectors}\n" in capsys.readouterr().out


def test_frozen_vectors_stay_through_averages_and_decay_and_a_stop(data, tmp_path, vectors):
    chosen = {"embeddings": vectors, "freeze_embeddings": True, "weight_decay": 0.1, "ema": 0.9, "epochs": 2}
    options = tiny_options(data, tmp_path, **chosen)
    asked = iter([False, True])
    train_alone(options, lambda: next(asked, True))
    trainer, events = train_alone(options)
    assert (events[0]["epoch"], events[0]["step"]) == (0, 1)
    assert row(trainer, "picture").eq(1).all()
    assert row(trainer, "seen").eq(2).all()
    unbroken, _ = train_alone(tiny_options(data, tmp_path / "unbroken", **chosen))
    ours, theirs = (dict(run.decoder.named_parameters()) for run in (trainer, unbroken))
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


def settled(data, tmp_path, **chosen):
    options = json.loads(tiny_options(data, tmp_path).to_json())
    return resolve_options({**options, "embed_dim": None, **chosen}, workers=1)[0]


def test_the_file_decides_how_many_channels_a_word_has(data, tmp_path, vectors):
    assert settled(data, tmp_path, embeddings=vectors).embed_dim == WIDTH
    assert settled(data, tmp_path, embeddings=vectors, embed_dim=WIDTH).embed_dim == WIDTH
    assert settled(data, tmp_path).embed_dim == TrainOptions.embed_dim
    for other in (64, TrainOptions.embed_dim):
        sentence = f"embed-dim is {other}, but the vectors in .* have {WIDTH} channels"
        with pytest.raises(RequestError, match=sentence):
            settled(data, tmp_path, embeddings=vectors, embed_dim=other)


def test_the_file_is_part_of_what_a_run_is_its_place_is_not(data, tmp_path, vectors):
    options = tiny_options(data, tmp_path, epochs=1, embeddings=vectors)
    trainer, _ = train_alone(options, lambda: True)
    assert trainer.identity()["embeddings"] == sha256_file(vectors)
    moved = tmp_path / "moved.txt"
    moved.write_bytes((tmp_path / "some.vec").read_bytes())
    train_alone(tiny_options(data, tmp_path, epochs=1, embeddings=str(moved)), lambda: True)
    moved.write_text("seen" + " 3" * WIDTH + "\n")
    with pytest.raises(RequestError, match="are of a run with embeddings [0-9a-f]{12}, not [0-9a-f]{12};"):
        train_alone(tiny_options(data, tmp_path, epochs=1, embeddings=str(moved)), lambda: True)
    with pytest.raises(RequestError, match="are of a run with embeddings [0-9a-f]{12}, not none;"):
        train_alone(tiny_options(data, tmp_path, epochs=1), lambda: True)
