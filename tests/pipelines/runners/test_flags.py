"""What is refused of Beam's flags, each in one sentence, before anything is written."""

from __future__ import annotations

import pytest

from captionbeam.pipelines.runners.flags import check_beam_args
from captionbeam.pipelines.runners.runner import is_handed_over
from captionbeam.schemas.errors import RequestError

DATAFLOW = ["--runner", "DataflowRunner", "--project", "a-project", "--temp_location", "gs://b/tmp"]
FLINK = ["--runner", "FlinkRunner"]


def refusal(flags):
    with pytest.raises(RequestError) as raised:
        check_beam_args(flags)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("runner", [[], ["--runner", "PrismRunner"], FLINK])
def test_a_template_is_dataflows_alone(runner):
    flags = [*runner, "--template_location", "/tmp/template"]
    assert refusal(flags).startswith("--template_location would do nothing with ")
    assert not is_handed_over(flags)
    assert is_handed_over([*DATAFLOW, "--template_location", "gs://b/template"])


@pytest.mark.parametrize("runner", [[], DATAFLOW])
@pytest.mark.parametrize("given", [["--dry_run", "True"], ["--dry_run=True"]])
def test_beams_own_dry_run_is_refused(runner, given):
    assert refusal([*runner, *given]) == "--dry_run is Beam's, and would run the job; expected --dry-run"


@pytest.mark.parametrize("runner", [[], DATAFLOW, FLINK])
@pytest.mark.parametrize("flag", ["--streaming", "--update", "--enable_streaming_engine"])
def test_a_job_that_ends_is_no_endless_one(runner, flag):
    assert (
        refusal([*runner, flag])
        == f"{flag} is for jobs that never end, and this one does; expected to leave it out"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            [*DATAFLOW, "--setup_file", "/nope/setup.py"],
            "--setup_file '/nope/setup.py' is not there; expected a file of this machine",
        ),
        (
            [*DATAFLOW, "--extra_package", "/nope/x.whl"],
            "--extra_package '/nope/x.whl' is not there; expected a file of this machine",
        ),
        (
            [*DATAFLOW, "--requirements_file", "/nope/r.txt"],
            "--requirements_file '/nope/r.txt' is not there; expected a file of this machine",
        ),
        (
            [*DATAFLOW, "--setup_file", __file__],
            f"--setup_file is {__file__!r}; expected a file named setup.py or pyproject.toml",
        ),
        (
            [*DATAFLOW, "--extra_package", "gs://b/x.egg"],
            "--extra_package is 'gs://b/x.egg'; expected one of .whl, .tar.gz, .tar, .zip",
        ),
        (
            [*DATAFLOW, "--number_of_worker_harness_threads", "abc"],
            "argument --number_of_worker_harness_threads: invalid int value: 'abc'; expected it as Beam's "
            "PipelineOptions have it",
        ),
        (["--direct_num_workers", "x"], "argument --direct_num_workers: invalid int value: 'x'; expected it"),
        ([*FLINK, "--flink_version", "9"], "argument --flink_version: invalid choice: '9' (choose from"),
        (
            ["--direct_running_mode", "nope"],
            "argument --direct_running_mode: invalid choice: 'nope' (choose from",
        ),
        ([*FLINK, "--parallelism", "abc"], "argument --parallelism: invalid int value: 'abc'; expected it"),
    ],
)
def test_what_does_not_parse_or_is_not_there_is_one_sentence(flags, said):
    assert refusal(flags).startswith(said)


@pytest.mark.parametrize("name", ["dill", "dill_unsafe"])
def test_pickling_by_what_is_not_installed_is_refused(name, monkeypatch):
    monkeypatch.setattr("captionbeam.pipelines.runners.flags.find_spec", {}.get)
    said = f"--pickle_library {name} needs dill, which is not installed; expected cloudpickle"
    assert refusal(["--pickle_library", name]) == said


@pytest.mark.parametrize(
    ("runner", "flags"),
    [
        ([], ["--project", "x"]),
        ([], ["--machine_type", "n2"]),
        ([], ["--temp_location", "/tmp/x"]),
        ([], ["--job_name", "x"]),
        ([], ["--number_of_worker_harness_threads", "3"]),
        ([], ["--resource_hints", "min_ram=1GB"]),
        ([], ["--setup_file", "setup.py"]),
        ([], ["--no_wait_until_finish"]),
        (["--runner", "PrismRunner"], ["--sdk_worker_parallelism", "3"]),
        (FLINK, ["--sdk_container_image", "x"]),
        (DATAFLOW, ["--environment_type", "DOCKER"]),
        (DATAFLOW, ["--sdk_worker_parallelism", "3"]),
        (DATAFLOW, ["--wait_until_finish_duration", "3"]),
    ],
)
def test_what_a_runner_does_not_heed_is_refused(runner, flags):
    said = refusal([*runner, *flags])
    assert said.startswith(f"{flags[0]} would do nothing with ")
    assert said.endswith("; expected to leave it out")


@pytest.mark.parametrize(
    "flags",
    [
        [*DATAFLOW, "--job_name", "x", "--setup_file", "setup.py", "--machine_type", "n2"],
        [*FLINK, "--job_name", "x", "--parallelism", "2", "--sdk_worker_parallelism", "2"],
        ["--default_sdk_harness_log_level", "DEBUG", "--max_cache_memory_usage_mb", "10"],
        ["--pickle_library", "cloudpickle"],
    ],
)
def test_what_a_runner_heeds_is_taken(flags):
    check_beam_args(flags)
