"""What a launch calls itself: jobs, labels, images, and the wheel it brings."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.jobs.run_on.packages import build_wheel
from captionbeam.jobs.run_on.target import check_versions, job_name, own_labels
from captionbeam.schemas.errors import RequestError
from tests.builders.clouds.launches import settled
from tests.builders.running.commands import ROOT


@given(st.sampled_from(["encode", "retry-failures"]), st.text(max_size=80), st.text(max_size=200))
def test_names_and_labels_keep_to_google_clouds_syntax(job, run_id, store):
    name = job_name(job, run_id)
    assert 0 < len(name) <= 63
    assert name[0].isalpha()
    assert name[-1].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    for key, value in own_labels(job, run_id, store).items():
        assert len(key) <= 63
        assert len(value) <= 63
        assert set(key + value) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


def test_the_users_labels_follow_ours_so_that_beam_lets_them_win():
    pairs = ["--labels", "team=vision", "--labels", '{"captionbeam-run": "mine", "cost": "low"}']
    _, found = settled(pairs)
    assert found.get_all_options()["labels"] == [
        "captionbeam-job=encode",
        "captionbeam-run=20260102-030405-0a1b2c3d",
        "captionbeam-store=bucket_store",
        "team=vision",
        '{"captionbeam-run": "mine", "cost": "low"}',
    ]
    assert found.get_all_options()["job_name"] == "captionbeam-encode-20260102-030405-0a1b2c3d"
    assert settled(["--job_name", "mine"])[1].get_all_options()["job_name"] == "mine"


def test_an_image_named_after_other_versions_is_refused():
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    other = "3.12" if here != "3.12" else "3.13"
    check_versions(None)
    check_versions("registry/captionbeam:latest")
    check_versions(f"registry/captionbeam-gpu:0.1.0-py{here}")
    check_versions(f"localhost:5000/captionbeam@sha256:{'0' * 64}")
    with pytest.raises(
        RequestError, match=f"the image .* has Python {other}, this launcher {here}; expected the same"
    ):
        check_versions(f"registry/captionbeam-gpu:0.1.0-py{other}")
    with pytest.raises(RequestError, match="has Beam 2.60.0, this launcher"):
        check_versions(f"registry/captionbeam-gpu:beam2.60.0-py{here}")
    with pytest.raises(RequestError, match="has Beam 2.60.0, this launcher"):
        check_versions(f"apache/beam_python{here}_sdk:2.60.0")


def test_the_wheel_of_the_launcher_is_that_of_setup_py(tmp_path):
    """The same modules, templates and requirements, without tests; twice the same bytes."""
    ours = build_wheel(str(tmp_path))
    (tmp_path / "again").mkdir()
    again = build_wheel(str(tmp_path / "again"))
    assert Path(ours).read_bytes() == Path(again).read_bytes()
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, source], check=True)
    for package in ("schemas", "capmodel", "pipelines", "jobs"):
        subprocess.run(["cp", "-r", ROOT / package, source], check=True)
    subprocess.run(["cp", ROOT / "setup.py", ROOT / "pyproject.toml", source], check=True)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    (tmp_path / "built").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", build.replace("'..'", repr(str(tmp_path / "built")))],
        cwd=source, check=True, capture_output=True, text=True,
    )  # fmt: skip
    theirs = tmp_path / "built" / done.stdout.splitlines()[-1]
    assert contents(ours) == contents(theirs)
    assert theirs.name == "captionbeam-0.1.0-py3-none-any.whl" == ours.rpartition("/")[2]
    assert "captionbeam/jobs/templates/report.html.j2" in contents(ours)
    assert not [name for name in contents(ours) if name.startswith("tests")]


def contents(wheel):
    """Each file but those that name the builder, with what is in it; code only by name, as bytecode may lie beside."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "dist-info" not in name and "__pycache__" not in name]
        packed = {name: archive.read(name) for name in names}
        about = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(about).decode().splitlines()
        packed["METADATA"] = sorted(
            line for line in lines if line.startswith(("Name", "Version", "Requires"))
        )
    return packed
