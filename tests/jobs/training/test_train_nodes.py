"""One training run on several machines: a torchrun on each, which meet at a rendezvous. Here all are this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from captionbeam.capmodel.bundles.contents import read_manifest
from captionbeam.jobs.cli import main, parse
from captionbeam.jobs.submit.nodes import Node, find_node
from captionbeam.schemas.errors import RequestError
from tests.builders.clouds.slurm import wait_until
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags, start
from tests.builders.web.servers import free_port

MODEL = {**SMALL, "device": "cpu", "precision": "fp32", "batch_size": 4, "epochs": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=100)


@pytest.fixture(scope="module")
def one_machine(data, tmp_path_factory):
    """What two workers on one machine give."""
    output = tmp_path_factory.mktemp("one") / "bundle"
    assert main(arguments(data, output, workers=2)) == 0
    return read_manifest(str(output))


def arguments(data, output, *more, **chosen):
    pairs = {**data, "output": output, **MODEL, **chosen}
    return ["train", *flags(**pairs), *more]


@contextmanager
def two_machines(data, output, folder, **chosen):
    """The same command on both; each says what it does in a file of its own and keeps logs of its own."""
    place = f"localhost:{free_port()}"
    both = []
    try:
        for number in (0, 1):
            logs = folder / f"logs-{number}"
            words = arguments(data, output, nodes=2, rendezvous=place, logs=logs, **chosen)
            with (folder / f"said-{number}").open("a") as said:
                both.append(start(*words, stdout=said, stderr=said, start_new_session=True))
        yield both
    finally:
        for process in both:
            process.kill()
            process.wait()


def end_with(both, folder, statuses, seconds=200):
    """Asserts the exit statuses, once both are over; otherwise shows what they said."""
    found = []
    with suppress(subprocess.TimeoutExpired):
        found += [process.wait(seconds) for process in both]
    assert found == statuses, "\n".join((folder / f"said-{n}").read_text() for n in (0, 1))


def position(output):
    """(epoch, step) of the newest checkpoint."""
    with suppress(FileNotFoundError):
        found = json.loads((Path(f"{output}-checkpoints") / "latest.json").read_text())["position"]
        if found:
            return found["epoch"], found["step"]
    return (0, 0)


@pytest.mark.engines
def test_two_machines_of_one_worker_are_one_of_two(data, one_machine, tmp_path):
    output = tmp_path / "bundle"
    with two_machines(data, output, tmp_path) as both:
        end_with(both, tmp_path, [0, 0])
    found = read_manifest(str(output))
    assert (found.sha256, found.scores) == (one_machine.sha256, one_machine.scores)
    assert found.trained_on == {"platform": "local", "workers": 2, "device": "cpu"}
    said = "".join((tmp_path / f"said-{number}").read_text() for number in (0, 1))
    assert said.count("epoch 4 of 4: ") == 1


@pytest.mark.engines
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_one_machine_taken_away_both_end_and_the_same_commands_go_on_to_the_same_bits(
    data, one_machine, tmp_path, number
):
    output = tmp_path / "bundle"
    with two_machines(data, output, tmp_path, checkpoint_minutes=0) as both:
        wait_until(lambda: position(output) >= (1, 3))
        both[1].send_signal(number)
        end_with(both, tmp_path, [1, 1 if number == signal.SIGTERM else -number])
    assert not output.exists()
    stopped = [
        f"said-{n}" for n in (0, 1) if "; the same command resumes" in (tmp_path / f"said-{n}").read_text()
    ]
    assert stopped == (["said-0", "said-1"] if number == signal.SIGTERM else [])
    epoch, step = position(output)
    with two_machines(data, output, tmp_path) as both:
        end_with(both, tmp_path, [0, 0])
    said = "".join((tmp_path / f"said-{n}").read_text() for n in (0, 1))
    assert f"going on after {step} steps of epoch {epoch + 1}" in said
    assert read_manifest(str(output)).sha256 == one_machine.sha256


def test_dry_run_prints_the_torchrun_command(data, tmp_path, capsys):
    words = arguments(data, tmp_path / "bundle", "--dry-run", workers=3)
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node=3 "
        "-m captionbeam.capmodel.training.worker '{"
    )
    assert main([*words, "--nodes", "2", "--rendezvous", "first:29500"]) == 0
    assert (
        "-m torch.distributed.run --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=first:29500 --rdzv-id=captionbeam-"
        in capsys.readouterr().out
    )
    assert list(tmp_path.iterdir()) == []


SPEC = {
    "cluster": {"workerpool0": ["chief-0:2222"], "workerpool1": ["other-0:2222", "other-1:2222"]},
    "environment": "cloud",
    "task": {"type": "workerpool1", "index": 1, "trial": ""},
}


@pytest.mark.parametrize(
    ("environment", "node"),
    [
        (
            {
                "PET_MASTER_ADDR": "job-node-0-0.job",
                "PET_MASTER_PORT": "29501",
                "PET_NNODES": "2",
                "PET_NODE_RANK": "1",
            },
            Node(2, "job-node-0-0.job:29501", 1, run="r", echo=True),
        ),
        ({"CLUSTER_SPEC": json.dumps(SPEC)}, Node(3, "chief-0:2222", 2, "other-1", "r", True)),
        (
            {"MASTER_ADDR": "first", "WORLD_SIZE": "4", "RANK": "0"},
            Node(4, "first:29500", 0, run="r", echo=True),
        ),
    ],
)
def test_platforms_say_where_machines_meet(environment, node):
    assert find_node(None, "auto", "r", environment) == node
    assert find_node(node.nodes, "auto", "r", environment) == node
    with pytest.raises(
        RequestError, match=f"--nodes is 9, but the platform's environment tells of {node.nodes}"
    ):
        find_node(9, "auto", "r", environment)


@pytest.mark.parametrize(
    ("nodes", "rendezvous", "environment", "sentence"),
    [
        (2, None, {}, "--nodes 2 needs --rendezvous HOST:PORT"),
        (None, "first:29500", {}, "--rendezvous first:29500 needs --nodes N"),
        (
            2,
            "auto",
            {"MASTER_ADDR": "a"},
            "MASTER_ADDR is set, but 'WORLD_SIZE'; expected WORLD_SIZE and RANK",
        ),
        (2, "auto", {"CLUSTER_SPEC": "{}"}, "CLUSTER_SPEC is '{}'"),
    ],
)
def test_what_cannot_meet_is_refused(nodes, rendezvous, environment, sentence):
    with pytest.raises(RequestError, match=".*") as caught:
        find_node(nodes, rendezvous, "r", environment)
    assert sentence in str(caught.value)


def test_without_workers_there_is_one_for_each_gpu_here_too():
    command = parse(["train", "--features", "f", "--tokens", "t", "--output", "o", "--gpus", "2"])
    assert command._own_workers() == 2
