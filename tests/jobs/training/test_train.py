"""``captionbeam train`` as people run it: through torchrun, killed and stopped in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.jobs.cli import main
from captionbeam.jobs.submit.torchrun import run_workers
from captionbeam.schemas.errors import RequestError, SystemicError
from tests.builders.data.stores import make_features
from tests.builders.model.training import SMALL, make_data, numbered_captions, tiny_options, train_alone
from tests.builders.running import commands
from tests.builders.running.commands import environment, flags

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
OWN = {"batch_size": 4, "epochs": 3, "precision": "fp32", **SMALL}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The parameters that a run gives which nothing interrupts."""
    trainer, _ = train_alone(tiny_options(data, tmp_path_factory.mktemp("unbroken"), **OWN))
    return {name: value.detach().numpy().copy() for name, value in trainer.decoder.named_parameters()}


def arguments(data, output, *more, **chosen):
    return ["train", *flags(**{**data, "output": output, "device": "cpu", **OWN, **chosen}), *more]


def start(words):
    own = {**environment(), "OMP_NUM_THREADS": "1"}
    return commands.start(*words, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out, err


def position_of(folder):
    """(epoch, step) of the checkpoint in ``folder``, or before any."""
    with suppress(FileNotFoundError):
        record = json.loads((folder / "latest.json").read_text())
        if record["position"]:
            return record["position"]["epoch"], record["position"]["step"]
    return (0, 0)


def wait_for(reached, process):
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def processes_of(output, module="captionbeam.capmodel.training.worker"):
    """The processes that run ``module`` for ``output``, from /proc: workers, or torchrun itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            if f'"output": "{output}"' in " ".join(words) and module in words:
                found.append(int(folder.name))
    return found


def parameters_of(bundle):
    return load_file(Path(bundle) / "model.safetensors")


def same(ours, theirs):
    return sorted(ours) == sorted(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.engines
@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_in_the_middle_of_an_epoch_the_same_command_goes_on_to_the_same_bits(
    data, unbroken, tmp_path, number
):
    output = tmp_path / "bundle"
    words = arguments(data, output, checkpoint_minutes=0)
    process = start(words)
    wait_for(lambda: position_of(tmp_path / "bundle-checkpoints") >= (1, 3), process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 1)
    wait_for(lambda: not processes_of(output), start_nothing())
    epoch, step = position_of(tmp_path / "bundle-checkpoints")
    assert (1, 3) <= (epoch, step) < (3, 0)
    assert not output.exists()
    place = f"after {step} steps of epoch {epoch + 1}"
    assert number == signal.SIGKILL or f"stopped {place}; the same command resumes" in out
    out, _ = finish(start(words))
    assert f"going on {place}" in out
    assert same(parameters_of(output), unbroken)
    scalars = EventAccumulator(str(tmp_path / "bundle-checkpoints" / "logs")).Reload()
    assert [point.step for point in scalars.Scalars("epoch/val_loss")] == [13, 26, 39]


def start_nothing():
    """A process that lasts as long as the patience of a test."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])


def test_a_bundle_a_history_and_scalars_come_out_and_then_there_is_nothing_to_do(
    data, unbroken, tmp_path, capfd
):
    output = tmp_path / "bundle"
    words = arguments(data, output, "--keep-epochs", logs=tmp_path / "logs")
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "50 images to train on, 6 to validate with" in out
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("epoch ")] == [
        f"epoch {epoch} of 3" for epoch in (1, 2, 3)
    ]
    assert "training: " in err
    bundle = Bundle.load(str(output))
    assert same(parameters_of(output), unbroken)
    assert [epoch["epoch"] for epoch in bundle.history] == [1, 2, 3]
    best = max(bundle.history, key=lambda epoch: (epoch["CIDEr"], -epoch["val_loss"]))
    assert bundle.scores == {name: best[name] for name in bundle.scores}
    assert {"CIDEr", "val_loss", "val_accuracy", "Bleu_4"} <= set(bundle.scores)
    assert sorted(path.name for path in (tmp_path / "bundle-checkpoints").glob("[!.]*")) == [
        *(f"epoch-{epoch:04d}.safetensors" for epoch in (1, 2, 3)),
        "latest.json",
    ]
    scalars = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [point.value for point in scalars.Scalars("epoch/CIDEr")] == [
        pytest.approx(epoch["CIDEr"]) for epoch in bundle.history
    ]
    before = (output / "model.safetensors").stat()
    assert main(words) == 0
    assert f"nothing to do: {output} holds the finished bundle" in capfd.readouterr().out
    assert (output / "model.safetensors").stat() == before
    assert main([*words, "--seed", "5"]) == 2
    assert "are of a run with seed 0, not 5" in capfd.readouterr().err


EXACT = {"dropout": 0, "grid_dropout": 0, "epochs": 2, "captions_per_image": 1, "ema": 0.9, "batch_growth": 2}
SHARED = {
    **EXACT,
    "batch_size": 2,
    "accumulate": 2,
    "batch_max": 4,
}  # by two workers: 8 images a step, then 16


@pytest.fixture(scope="module")
def unbroken_two(data, tmp_path_factory):
    """The parameters that two workers give."""
    output = tmp_path_factory.mktemp("two") / "bundle"
    finish(start(arguments(data, output, workers=2, **SHARED)))
    return parameters_of(output)


@pytest.mark.engines
def test_two_workers_that_accumulate_two_are_one_with_four_times_the_batch(data, unbroken_two, tmp_path):
    alone, _ = train_alone(tiny_options(data, tmp_path, **{**OWN, **EXACT, "batch_size": 8, "batch_max": 16}))
    for name, value in alone.decoder.named_parameters():
        np.testing.assert_allclose(unbroken_two[name], value.detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.engines
@needs_proc
def test_one_of_two_workers_killed_the_same_command_goes_on_to_the_same_bits(data, unbroken_two, tmp_path):
    output = tmp_path / "bundle"
    words = arguments(data, output, workers=2, checkpoint_minutes=0, **SHARED)
    process = start(words)
    wait_for(lambda: position_of(tmp_path / "bundle-checkpoints") >= (1, 2), process)
    torchrun = processes_of(output, "torch.distributed.run")
    os.kill(next(number for number in processes_of(output) if number not in torchrun), signal.SIGKILL)
    _, err = finish(process, status=1)
    killed = "the workers ended by SIGKILL (a want of memory, more often than not) and no word why"
    assert killed in err or "a worker crashed" in err
    assert not processes_of(output)
    assert not output.exists()
    finish(start(words))
    assert same(parameters_of(output), unbroken_two)


@pytest.mark.engines
@needs_proc
def test_with_torchrun_killed_nobody_trains_on(data, tmp_path):
    output = tmp_path / "bundle"
    process = start(arguments(data, output, epochs=1000))
    wait_for(lambda: position_of(tmp_path / "bundle-checkpoints") >= (1, 0), process)
    (torchrun,) = processes_of(output, "torch.distributed.run")
    os.kill(torchrun, signal.SIGKILL)
    _, err = finish(process, status=1)
    assert "the workers ended by SIGKILL" in err
    wait_for(lambda: not processes_of(output), start_nothing())


@pytest.mark.engines
@pytest.mark.parametrize(
    ("how", "kind", "sentence"),
    [
        ("error", RequestError, "the value is 3; expected 4"),
        (
            "crash",
            SystemicError,
            "a worker crashed: RuntimeError: connection closed by peer (all of it is in ",
        ),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_sentence(tmp_path, capfd, how, kind, sentence):
    log = tmp_path / "workers.log"
    with pytest.raises(kind) as caught:
        run_workers(["tests.builders.model.bad_worker", how], 2, 1, log, lambda event: None)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(sentence)
    assert "a line of rank 1 that is no event" in capfd.readouterr().out
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"features": "nowhere"}, "has no published snapshot"),
        ({"snapshot": 9}, "has no snapshot 9; it has 1"),
        ({"logs": "memory://logs"}, "expected a local folder"),
    ],
)
def test_a_wrong_request_is_refused_at_once(data, tmp_path, capsys, wrong, sentence):
    started = time.monotonic()
    assert main(arguments({**data}, tmp_path / "bundle", **wrong)) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "bundle").exists()
    assert time.monotonic() - started < 10


def test_features_for_too_few_of_the_captions_are_refused(data, tmp_path, capsys):
    few = make_features(str(tmp_path / "few"), list(numbered_captions(40, 6)))
    assert main(arguments({**data, "features": few.url}, tmp_path / "bundle")) == 2
    assert "images lack their other half" in capsys.readouterr().err


def test_another_bundle_is_not_written_over(data, tmp_path, capsys):
    """One without checkpoints beside it: for these features there is nothing to do, for others not."""
    output = tmp_path / "bundle"
    trainer, _ = train_alone(tiny_options(data, tmp_path, **{**OWN, "epochs": 1}))
    Bundle(trainer.decoder, trainer.data.tokenizer, trainer.data.store.fingerprint).save(str(output))
    assert main(arguments(data, output)) == 0
    assert "nothing to do" in capsys.readouterr().out
    Bundle(trainer.decoder, trainer.data.tokenizer, "other").save(str(output))
    assert main(arguments(data, output)) == 2
    assert "holds a bundle with features other, not" in capsys.readouterr().err
    Bundle(trainer.decoder, trainer.data.tokenizer, trainer.data.store.fingerprint).save(str(output))
    assert main(arguments(data, output, gate="none")) == 2
    assert "holds a bundle with gate vector, not none; expected another --output" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["output", "checkpoints"])
def test_a_store_is_no_place_for_a_bundle(data, tmp_path, capsys, place):
    assert main(arguments({**data}, **{"output": tmp_path / "bundle", place: data["features"]})) == 2
    said = f"captionbeam: {place} is '{data['features']}', a store of features; expected another folder"
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize("restart", [["--restart"]])
def test_another_model_is_not_written_over(data, tmp_path, capsys, restart):
    output = tmp_path / "blip"
    output.mkdir()
    (output / "config.json").write_text('{"model_type": "blip"}')
    (output / "README.md").write_text("mine")
    assert main([*arguments(data, output), *restart]) == 2
    assert "config.json is not a bundle's; expected another folder" in capsys.readouterr().err
    (output / "config.json").unlink()
    assert main([*arguments(data, output), *restart]) == 2
    assert "where README.md is of no run that is known; expected another folder" in capsys.readouterr().err
    assert (output / "README.md").read_text() == "mine"


def test_no_place_is_another_things(data, tmp_path, capsys):
    output = tmp_path / "bundle"
    assert main(arguments(data, data["tokens"])) == 2
    assert f"output is '{data['tokens']}', a token table; expected another folder" in capsys.readouterr().err
    assert main(arguments(data, output, checkpoints=output)) == 2
    assert f"checkpoints is '{output}', the output; expected another folder" in capsys.readouterr().err
    assert not output.exists()


def test_a_checkpoint_of_another_run_is_refused_by_the_command(data, tmp_path, capfd):
    output = tmp_path / "bundle"
    stopped = tiny_options(data, tmp_path, **OWN, checkpoints=str(output) + "-checkpoints", seed=7)
    train_alone(stopped, lambda: True)
    assert main(arguments(data, output)) == 2
    err = capfd.readouterr().err.strip()
    assert err.startswith(
        f"captionbeam: the checkpoints in {output}-checkpoints are of a run with seed 7, not 0;"
    )
    assert "\n" not in err
    assert not output.exists()
