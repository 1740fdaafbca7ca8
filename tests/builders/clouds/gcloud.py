"""A ``gcloud`` for scripts: it knows the few commands and flags that they use, and writes down what each asks for.

What is written is what Google's services would get: a Job of Cloud Scheduler, a Job of Cloud Run. A command or flag
that is not here ends the script.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.builders.running.commands import ROOT

MISSING = 1
METHODS = ("POST",)
MOST_RETRIES = 5  # of Cloud Scheduler's RetryConfig


def install(folder: Path) -> Path:
    """Make ``folder`` hold a ``gcloud`` whose services keep what they have in ``folder/services``."""
    (folder / "services").mkdir(parents=True)
    program = folder / "gcloud"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tests.builders.clouds.gcloud {folder}/services "$@"\n'
    )
    program.chmod(0o755)
    return folder


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script whose ``gcloud`` is the one in ``folder``."""
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-s"], input=script, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def kept(folder: Path, service: str) -> dict[str, Any]:
    """What a service has, by name: ``scheduler`` or ``run``."""
    found = (folder / "services").glob(f"{service}-*.json")
    return {path.stem.removeprefix(f"{service}-"): json.loads(path.read_text()) for path in found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    top = parser.add_subparsers(required=True)
    scheduler = top.add_parser("scheduler").add_subparsers(required=True)
    jobs = scheduler.add_parser("jobs").add_subparsers(required=True)
    _place(describe := jobs.add_parser("describe"), "--location")
    describe.add_argument("name")
    describe.set_defaults(do=_describe)
    for verb, headers, do in (("create", "headers", _create), ("update", "update-headers", _update)):
        _place(http := jobs.add_parser(verb).add_subparsers(required=True).add_parser("http"), "--location")
        http.add_argument("name")
        http.add_argument(f"--{headers}", dest="headers", required=True)
        _job_flags(http)
        http.set_defaults(do=do)
    run = top.add_parser("run").add_subparsers(required=True)
    _place(replace := run.add_parser("jobs").add_subparsers(required=True).add_parser("replace"), "--region")
    replace.add_argument("file", type=Path)
    replace.set_defaults(do=_replace)
    return parser


def _place(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument("--project", required=True)
    parser.add_argument(where, required=True, dest="place")


def _job_flags(http: argparse.ArgumentParser) -> None:
    for flag in ("schedule", "time-zone", "uri", "message-body-from-file", "oauth-service-account-email",
                 "attempt-deadline", "min-backoff", "max-backoff"):  # fmt: skip
        http.add_argument(f"--{flag}", required=True)
    http.add_argument("--http-method", choices=METHODS, required=True)
    http.add_argument("--max-retry-attempts", type=int, choices=range(MOST_RETRIES + 1), required=True)


def _describe(services: Path, options: argparse.Namespace) -> int:
    path = services / f"scheduler-{options.name}.json"
    if not path.exists():
        return MISSING
    print(path.read_text())
    return 0


def _create(services: Path, options: argparse.Namespace) -> int:
    with (services / f"scheduler-{options.name}.json").open("x") as stream:  # one there already is refused
        json.dump(_job(options), stream)
    return 0


def _update(services: Path, options: argparse.Namespace) -> int:
    with (services / f"scheduler-{options.name}.json").open("r+") as stream:  # one not there is refused
        stream.truncate()
        json.dump(_job(options), stream)
    return 0


def _job(options: argparse.Namespace) -> dict[str, Any]:
    name, _, value = options.headers.partition("=")
    body = Path(options.message_body_from_file).read_bytes()
    return {
        "name": f"projects/{options.project}/locations/{options.place}/jobs/{options.name}",
        "schedule": options.schedule,
        "timeZone": options.time_zone,
        "attemptDeadline": options.attempt_deadline,
        "retryConfig": {
            "retryCount": options.max_retry_attempts,
            "minBackoffDuration": options.min_backoff,
            "maxBackoffDuration": options.max_backoff,
        },
        "httpTarget": {
            "uri": options.uri,
            "httpMethod": options.http_method,
            "headers": {name: value},
            "body": base64.b64encode(body).decode(),
            "oauthToken": {"serviceAccountEmail": options.oauth_service_account_email},
        },
    }


def _replace(services: Path, options: argparse.Namespace) -> int:
    body = json.loads(options.file.read_text())
    (services / f"run-{body['metadata']['name']}.json").write_text(json.dumps(body))
    return 0


if __name__ == "__main__":
    asked = _parser().parse_args(sys.argv[2:])
    sys.exit(asked.do(Path(sys.argv[1]), asked))
