"""``--storage-options`` of ``captionbeam train --on ...``: what the workers are told, and what stays out of a job."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

from captionbeam.jobs.cli import main, parse
from tests.builders.training import SMALL, make_data

HARMLESS = {"s3": {"endpoint_url": "https://s3.example.org", "anon": False}}
SECRET = {"s3": {**HARMLESS["s3"], "secret": "hush"}}
VERTEX = ["--on", "vertex", "--region", "r", "--machine-type", "m", "--image", "i"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, train=40)
    return folder


def targets(data):
    return {
        "slurm": ["--on", "slurm"],
        "kubernetes": ["--on", "kubernetes", "--image", "i", "--kind", "jobset", "--volume", f"photos:/data:{data}"],
    }  # fmt: skip


def told(data, on, given, capsys):
    """``--storage-options`` in the command of each worker."""
    pairs = {"features": data / "features", "tokens": data / "tokens", "output": data / "b", **SMALL}
    words = [word for name, value in pairs.items() for word in (f"--{name}".replace("_", "-"), str(value))]
    capsys.readouterr()
    assert main(["train", *words, *targets(data)[on], "--dry-run", "--storage-options", given]) == 0
    printed = capsys.readouterr().out
    if on == "slurm":
        (line,) = [line for line in printed.splitlines() if line.startswith("srun ")]
        command = shlex.split(line.removesuffix("\\"))[1:]
    else:
        pod = yaml.safe_load(printed)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        command = pod["containers"][0]["command"]
    return parse([*command[1:], *(["x"] if command[-1] == "--rendezvous" else [])])[0].storage_options


@pytest.mark.parametrize("on", ["kubernetes"])
def test_what_is_no_secret_is_in_the_command(data, capsys, tmp_path, on):
    (tmp_path / "options.json").write_text(json.dumps(HARMLESS))
    for given in (json.dumps(HARMLESS), str(tmp_path / "options.json")):
        assert json.loads(told(data, on, given, capsys)) == HARMLESS


@pytest.mark.parametrize(("on", "there"), [("kubernetes", "/data")])
def test_of_a_file_with_secrets_the_workers_are_told_the_name(data, capsys, on, there):
    (data / "options.json").write_text(json.dumps(SECRET))
    found = told(data, on, str(data / "options.json"), capsys)
    assert found == f"{there.format(data=data)}/options.json"


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("slurm", "expected it in a file on the shared disk, or in the environment"),
        (
            "kubernetes",
            "expected it in the workers' environment (--env-secret FSSPEC_S3_SECRET=NAME:KEY), or",
        ),
        ("vertex", "expected it in a file in a bucket that --service-account reads"),
    ],
)
def test_a_secret_is_in_no_job(data, capsys, on, expected):
    words = {**targets(data), "vertex": VERTEX}[on]
    places = ["--features", f"{data}/features", "--tokens", f"{data}/tokens", "--output", f"{data}/b"]
    assert main(["train", *places, *words, "--dry-run", "--storage-options", json.dumps(SECRET)]) == 2
    said = capsys.readouterr()
    assert "--storage-options have s3's secret, which may be secret, and a job's command is" in said.err
    assert expected in said.err
    assert "hush" not in said.err + said.out
