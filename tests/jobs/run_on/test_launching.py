"""What a launcher settles before anything is written: presets, labels, names, places, and the code that workers get."""

from __future__ import annotations

import pytest

from captionbeam.jobs.run_on.target import resolve_target, settle_target
from captionbeam.pipelines.workers.processors import EncoderJob
from captionbeam.schemas.errors import RequestError
from tests.builders.clouds.launches import CLOUD, PLACES, encode, settled

IMAGE = ["--sdk_container_image", "europe-docker.pkg.dev/a-project/images/captionbeam:1"]
ENCODER = EncoderJob(spec={}, weights="models/0.safetensors")


@pytest.mark.parametrize(
    ("name", "accelerator", "count", "machine", "threads"),
    [
        ("t4", "nvidia-tesla-t4", 1, "n1-standard-8", 4),
        ("t4x2", "nvidia-tesla-t4", 2, "n1-standard-16", 8),
        ("t4x4", "nvidia-tesla-t4", 4, "n1-standard-32", 16),
        ("h100", "nvidia-h100-80gb", 1, "a3-highgpu-1g", 8),
        ("h100x8", "nvidia-h100-80gb", 8, "a3-highgpu-8g", 64),
        ("l4", "nvidia-l4", 1, "g2-standard-8", 4),
        ("l4x2", "nvidia-l4", 2, "g2-standard-24", 8),
        ("l4x4", "nvidia-l4", 4, "g2-standard-48", 16),
        ("l4x8", "nvidia-l4", 8, "g2-standard-96", 32),
        ("a100", "nvidia-tesla-a100", 1, "a2-highgpu-1g", 4),
        ("a100x2", "nvidia-tesla-a100", 2, "a2-highgpu-2g", 8),
    ],
)
def test_a_preset_sets_everything_that_a_gpu_worker_needs(name, accelerator, count, machine, threads):
    target, found = settled(IMAGE, name)
    every = found.get_all_options()
    assert every["dataflow_service_options"] == [
        f"worker_accelerator=type:{accelerator};count:{count};install-nvidia-driver:5xx"
    ]
    assert (every["machine_type"], every["number_of_worker_harness_threads"]) == (machine, threads)
    assert every["disk_size_gb"] == 100
    assert every["experiments"] == ["use_runner_v2", "no_use_multiple_sdk_containers"]
    assert every["save_main_session"] is False
    assert (target.with_device(ENCODER).device, target.notes) == ("cuda", ())


def test_the_users_own_flags_win_and_are_said():
    own = ["--machine_type", "g2-standard-24", "--disk_size_gb", "200", "--number_of_worker_harness_threads", "2",
           "--dataflow_service_options", "worker_accelerator=type:nvidia-l4;count:2;install-nvidia-driver",
           "--dataflow_service_options", "enable_dynamic_thread_scaling",
           "--experiments", "use_multiple_sdk_containers"]  # fmt: skip
    target, found = settled([*IMAGE, *own], "l4")
    every = found.get_all_options()
    assert (every["machine_type"], every["disk_size_gb"], every["number_of_worker_harness_threads"]) == (
        "g2-standard-24", 200, 2,
    )  # fmt: skip
    assert every["dataflow_service_options"] == [
        "worker_accelerator=type:nvidia-l4;count:2;install-nvidia-driver",
        "enable_dynamic_thread_scaling",
    ]
    assert every["experiments"] == ["use_multiple_sdk_containers", "use_runner_v2"]
    assert target.notes == (
        "--machine_type g2-standard-24 instead of g2-standard-8 of --gpu l4",
        "--number_of_worker_harness_threads 2 instead of 4 of --gpu l4",
        "--disk_size_gb 200 instead of 100 of --gpu l4",
        "--experiments use_multiple_sdk_containers: each process of a worker loads a model of its own",
        "--dataflow_service_options worker_accelerator=type:nvidia-l4;count:2;install-nvidia-driver instead of the "
        "accelerator of --gpu l4",
    )


def test_without_a_gpu_a_worker_has_one_process_all_the_same():
    target, found = settled([])
    assert found.get_all_options()["experiments"] == ["use_runner_v2", "no_use_multiple_sdk_containers"]
    assert found.get_all_options()["number_of_worker_harness_threads"] == 2
    assert target.with_device(ENCODER) == ENCODER


@pytest.mark.parametrize(
    ("gpu", "precision"),
    [("t4", "fp32"), ("l4", "bf16"), ("l4x4", "bf16"), ("a100", "bf16"), ("h100", "bf16")],
)
def test_a_preset_settles_the_precision_that_was_left_to_the_hardware(gpu, precision):
    launch = [*CLOUD, *IMAGE]
    assert resolve_target(encode(launch, gpu=gpu))[1].precision == precision
    assert resolve_target(encode(launch, gpu=gpu, precision="fp32"))[1].precision == "fp32"


@pytest.mark.parametrize(
    ("gpu", "beam_args", "places", "sentence"),
    [
        ("l4", ["--runner", "PrismRunner"], PLACES,
         "--gpu l4 is of Dataflow's workers, not of PrismRunner; expected --runner DataflowRunner"),
        (None, CLOUD, {"SOURCE": ["gs://bucket/photos", "photos/more"]},
         "SOURCE photos/more is on this machine, where workers on Dataflow do not see it; expected gs://... or "
         "another URL"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_sentence(gpu, beam_args, places, sentence):
    with pytest.raises(RequestError) as refusal:
        settle_target(beam_args, places, gpu)
    assert str(refusal.value) == sentence


def test_a_device_beside_a_gpu_is_refused():
    with pytest.raises(
        RequestError, match="--device cpu contradicts --gpu l4, whose workers use their GPU; expected"
    ):
        resolve_target(encode([*CLOUD, *IMAGE], gpu="l4", device="cpu"))
