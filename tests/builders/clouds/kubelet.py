"""Running a Job's pods as Kubernetes would: init containers one by one, retries by the Job's own failure policy.

A container is its command as a process, with nothing of this environment but the PATH. The file for termination
messages, which every container finds at one place, lies in the pod's scratch folder instead.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.builders.running.commands import ROOT

TERMINATION_LOG = "/dev/termination-log"
BACKOFF = "backoff limit exceeded"


@dataclass
class Ended:
    """How a Job ended: the exit statuses of each pod's containers by name, and the last termination messages."""

    pods: list[dict[str, int]] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)
    succeeded: bool = False
    why: str = ""


def run_job(cronjob: dict[str, Any], scratch: Path) -> Ended:
    """Run what the CronJob starts, to the end."""
    job = cronjob["spec"]["jobTemplate"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    ended, counted = Ended(), 0
    while counted <= job["backoffLimit"]:
        statuses, messages = run_pod(job["template"]["spec"], scratch)
        ended.pods.append(statuses)
        ended.messages = messages
        if not any(statuses.values()):
            ended.succeeded = True
            return ended
        if _action(job["podFailurePolicy"]["rules"], list(statuses.values())) == "FailJob":
            ended.why = "pod failure policy"
            return ended
        counted += 1
    ended.why = BACKOFF
    return ended


def run_pod(pod: dict[str, Any], scratch: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Exit status and termination message of each container that was started."""
    statuses, messages = {}, {}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        name = container["name"]
        statuses[name], messages[name] = run_container(container, scratch / name)
        if statuses[name]:
            break
    return statuses, messages


def run_container(container: dict[str, Any], scratch: Path) -> tuple[int, str]:
    """Run one; its message is the file's, else the end of its output where the policy says so."""
    scratch.mkdir(parents=True, exist_ok=True)
    message = scratch / "termination-log"
    message.write_bytes(b"")
    given = {each["name"]: each["value"] for each in container["env"]}
    command = [filled(word, given) for word in container["command"]]
    command = [str(message) if word == TERMINATION_LOG else word for word in command]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, env={"PATH": path, "PYTHONPATH": str(ROOT), **given}, cwd=scratch,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    told = message.read_text()
    fallback = container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    return done.returncode, told or (done.stdout[-2048:] if done.returncode and fallback else "")


def filled(word: str, given: dict[str, str]) -> str:
    """``$(NAME)`` where there is such a variable, ``$$`` for ``$``: as Kubernetes documents it."""
    return re.sub(
        r"\$\$|\$\((\w+)\)",
        lambda found: "$" if found[0] == "$$" else given.get(found[1], found[0]),
        word,
    )


def _action(rules: list[dict[str, Any]], statuses: list[int]) -> str:
    """What the first rule says that fits the exit statuses: FailJob, Ignore or Count."""
    for rule in rules:
        wanted = rule.get("onExitCodes")
        if wanted and (failed := [status for status in statuses if status]):
            inside = any(status in wanted["values"] for status in failed)
            if inside == (wanted["operator"] == "In"):
                return rule["action"]
    return "Count"
