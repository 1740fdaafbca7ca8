"""The published schemas of TrainJob and JobSet: custom resource definitions, and the API's generated models."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.builders.running.cached import cached
from tests.builders.web.fetched import fetch, need

MODULE, VERSION = "github.com/kubeflow/trainer/v2", "v2.0.0"
FILES = ("trainer.kubeflow.org_trainjobs.yaml", "trainer.kubeflow.org_clustertrainingruntimes.yaml")
MODELS = {"TrainJob": "TrainerV1alpha1TrainJob", "JobSet": "JobsetV1alpha2JobSet"}
ROUND_TRIP = "import sys, json, kubeflow_trainer_api.models as m; value = json.load(sys.stdin); \
print(json.dumps(getattr(m, sys.argv[1]).from_dict(value).to_dict(), default=str))"


@functools.cache
def definitions() -> dict[str, dict[str, Any]]:
    """The schema of each kind, closed: a field that it does not name is wrong. Skips where Go is missing.

    JobSet's is the one that the definition of ClusterTrainingRuntime holds whole.
    """
    trainjob, runtime = (_schema(path) for path in _fetched())
    inner = runtime["properties"]["spec"]["properties"]["template"]["properties"]
    top = {name: {"type": "string"} for name in ("apiVersion", "kind")}
    jobset = {
        "type": "object",
        "required": ["spec"],
        "properties": {**top, "metadata": {"type": "object"}, "spec": inner["spec"]},
    }
    return {"TrainJob": _closed(trainjob), "JobSet": _closed(jobset)}


def misfits(manifest: Mapping[str, Any]) -> list[str]:
    """What in ``manifest`` its definition does not know or knows otherwise."""
    checker = jsonschema.Draft202012Validator(definitions()[manifest["kind"]])
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(manifest)]


def as_published(manifest: Mapping[str, Any], version: str) -> Any:
    """``manifest`` through the generated models of that version of the API, which drop what they do not know."""
    folder = _models(version)
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, MODELS[manifest["kind"]]],
        input=json.dumps(manifest), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _fetched() -> list[Path]:
    def copy(folder: Path) -> None:
        download = [need("go", "definition of TrainJob"), "mod", "download", "-json", f"{MODULE}@{VERSION}"]
        module = Path(json.loads(fetch(download, "definition of TrainJob"))["Dir"])
        for name in FILES:
            shutil.copyfile(module / "manifests" / "base" / "crds" / name, folder / name)

    folder = cached(f"kubeflow-trainer-{VERSION}", copy)
    return [folder / name for name in FILES]


def _models(version: str) -> Path:
    def install(folder: Path) -> None:
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        fetch([*words, f"kubeflow-trainer-api=={version}"], f"models of Kubeflow Trainer {version}")

    return cached(f"kubeflow-trainer-api-{version}", install)


def _schema(path: Path) -> dict[str, Any]:
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def _closed(schema: Any) -> Any:
    """``schema`` with no room for what it does not name, as the API server sees it on request."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        inner.setdefault("additionalProperties", False)
    return inner
