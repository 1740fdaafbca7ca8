"""--storage-options: what reaches the servers, from the launcher and from workers in processes of their own."""

from __future__ import annotations

import json
import shlex

import fsspec
import pytest
import yaml
from fsspec.config import conf

from captionbeam.jobs.cli import main, parse
from captionbeam.jobs.options.storage import parsed
from captionbeam.jobs.scenes.files import draw_scenes
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files
from captionbeam.schemas.storage import options as storage_options
from captionbeam.schemas.store import layout
from tests.builders.model.training import SMALL, make_data
from tests.builders.running.commands import flags
from tests.builders.running.zygote import captionbeam
from tests.builders.web.key_servers import ADDRESS
from tests.builders.web.meddler import meddling

PAYS = {"gs": {"requester_pays": "who-pays", "token": "anon"}, "s3": {"requester_pays": True}}
SECRETS = {"s3": {"key": "test", "secret": "test"}}
ANONYMOUS = {"gs": {"token": "anon"}, "s3": {"anon": True}}


@pytest.fixture
def own_options():
    before = dict(storage_options.current())
    yield
    storage_options.use(before)


@pytest.fixture
def overheard(bucket, monkeypatch):
    """The bucket, and what its server is asked."""
    heard = []
    with meddling(bucket.server.address, lambda *_: None, heard=heard) as address:
        monkeypatch.setenv(ADDRESS[bucket.server.protocol], address)
        fsspec.get_filesystem_class(bucket.server.protocol).clear_instance_cache()
        yield bucket, heard


def pays(request):
    _, path, headers = request
    return "userProject=who-pays" in path or headers.get("x-amz-request-payer") == "requester"


def test_who_pays_is_said_by_the_launcher_and_by_every_worker(overheard):
    """Workers are processes that know nothing but the pipeline. The run's record keeps the options, but no secret."""
    bucket, heard = overheard
    for drawn in draw_scenes("val", 6):
        files.write_atomic(f"{bucket.url}/photos/{drawn.name}", drawn.jpeg)
    heard.clear()
    mine = {**PAYS[bucket.server.protocol], **SECRETS.get(bucket.server.protocol, {})}
    given = {bucket.server.protocol: mine}
    captionbeam("encode", f"{bucket.url}/photos", "--output", f"{bucket.url}/store", "--encoder", "efficientnet_lite0",
                "--image-size", 64, "--pooled", "--shard-size", 2, "--storage-options", json.dumps(given),
                "--direct_running_mode", "multi_processing", "--direct_num_workers", 2)  # fmt: skip
    assert len(heard) > 30
    images = [request for request in heard if ".jpg" in request[1] and request[0] == "GET"]
    assert len(images) >= 6
    assert [request[:2] for request in heard if not pays(request) and "/upload/" not in request[1]] == []
    (run,) = files.names(f"{bucket.url}/store/plans")
    kept = files.read_json(f"{bucket.url}/store/plans/{run}/run.json")["options"]["storage_options"]
    assert kept[bucket.server.protocol]["requester_pays"] == given[bucket.server.protocol]["requester_pays"]
    assert kept[bucket.server.protocol].get("secret") in (None, "(not kept)")
    assert layout.snapshot_ids(f"{bucket.url}/store") == [1]


def test_who_is_anonymous_signs_nothing(overheard, monkeypatch, tmp_path):
    bucket, heard = overheard
    monkeypatch.delenv("FSSPEC_GS_TOKEN", raising=False)
    fs, path = files.split(f"{bucket.url}/captions.jsonl")
    public = {"ACL": "public-read"} if bucket.server.protocol == "s3" else {}
    fs.pipe_file(path, b'{"image_id": "a", "caption": "a dog"}\n' * 3, **public)
    heard.clear()
    (tmp_path / "options.json").write_text(
        json.dumps({bucket.server.protocol: ANONYMOUS[bucket.server.protocol]})
    )
    captionbeam("tokenize", "--train", f"{bucket.url}/captions.jsonl", "--output", tmp_path / "tokens",
                "--kind", "words", "--min-count", 1, "--storage-options", tmp_path / "options.json")  # fmt: skip
    assert heard
    assert [request for request in heard if "authorization" in request[2]] == []


def test_options_are_put_on_top_of_the_environments_and_taken_off_again(own_options, monkeypatch):
    monkeypatch.setitem(storage_options._found, "s3", {"anon": True, "use_ssl": False})
    storage_options.use({"s3": {"anon": False}})
    assert conf["s3"] == conf["s3a"] | {"use_ssl": False, "anon": False}
    assert json.loads(storage_options.as_environment()["FSSPEC_S3"]) == {"anon": False, "use_ssl": False}
    storage_options.use({})
    assert conf["s3"] == {"anon": True, "use_ssl": False}


def test_what_may_be_a_secret_is_not_kept():
    given = {
        "gs": {"token": {"private_key": "x"}, "project": "p"},
        "s3": {"key": "k", "secret": "s", "anon": False},
    }
    kept = {"gs": {"token": "(not kept)"}, "s3": {"key": "(not kept)", "secret": "(not kept)"}}
    assert storage_options.for_record(given) == {name: {**given[name], **kept[name]} for name in given}
    assert storage_options.for_record({"gs": {"token": "anon"}}) == {"gs": {"token": "anon"}}


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
    capsys.readouterr()
    assert main(["train", *flags(**pairs), *targets(data)[on], "--dry-run", "--storage-options", given]) == 0
    printed = capsys.readouterr().out
    if on == "slurm":
        (line,) = [line for line in printed.splitlines() if line.startswith("srun ")]
        command = shlex.split(line.removesuffix("\\"))[1:]
    else:
        pod = yaml.safe_load(printed)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        command = pod["containers"][0]["command"]
    return parse([*command[1:], *(["x"] if command[-1] == "--rendezvous" else [])]).storage_options


@pytest.mark.parametrize(("on", "there"), [("kubernetes", "/data"), ("slurm", "{data}")])
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


def test_a_password_in_an_endpoint_is_not_kept():
    for given, kept in (
        ("http://me:pw@host:9000/x@y", "http://host:9000/x@y"),
        ("http://host/a@b", "http://host/a@b"),
    ):
        assert storage_options.for_record({"s3": {"endpoint_url": given}}) == {"s3": {"endpoint_url": kept}}


def test_a_file_with_secrets_that_no_worker_sees_is_refused(data, capsys, tmp_path):
    (tmp_path / "options.json").write_text(json.dumps(SECRET))
    places = ["--features", f"{data}/features", "--tokens", f"{data}/tokens", "--output", f"{data}/b"]
    words = [*targets(data)["kubernetes"], "--storage-options", str(tmp_path / "options.json"), "--dry-run"]
    assert main(["train", *places, *words]) == 2
    assert f"'{tmp_path}/options.json' is on no volume of the workers" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ['["hush"]', 'gs={"token": "hush"}', '"hush"', '{"s3": "hush"}', ' [{"key": "hush"']
)
def test_a_refusal_does_not_say_what_may_be_a_secret(text):
    with pytest.raises(RequestError) as refused:
        parsed(text)
    assert "hush" not in str(refused.value)


def test_what_is_no_secret_is_in_the_command(data, capsys, tmp_path):
    (tmp_path / "options.json").write_text(json.dumps(HARMLESS))
    for given in (json.dumps(HARMLESS), str(tmp_path / "options.json")):
        assert json.loads(told(data, "kubernetes", given, capsys)) == HARMLESS
