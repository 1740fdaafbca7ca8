"""As much of ``docker`` as Beam's runner asks for, without a daemon: ``docker.py FOLDER COMMAND ...``.

``run`` starts the entry point of a container by the words in FOLDER/entrypoint.json.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path


def run(folder: Path, arguments: list[str]) -> str:
    """Start a container; gives its id."""
    name = uuid.uuid4().hex
    named = next(number for number, word in enumerate(arguments) if word.startswith("--id="))
    (folder / "image").write_text(arguments[named - 1])
    command = [*json.loads((folder / "entrypoint.json").read_text()), *arguments[named:]]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    (folder / f"{name}.pid").write_text(str(process.pid))
    return name


def is_running(pid: int) -> bool:
    """Whether the process is there, and not only its grave."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(folder: Path) -> None:
    """End every process of every container: boot, and the Python that it started in a group of its own."""
    for pid in Path("/proc").iterdir():
        if not pid.name.isdigit():
            continue
        try:
            if f"HOME={folder}".encode() in (pid / "environ").read_bytes().split(b"\0"):
                os.kill(int(pid.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def main(folder: Path, command: str, *arguments: str) -> int:
    """Do as docker does."""
    if command == "run":
        print(run(folder, list(arguments)))
    elif command == "inspect":
        pid = int((folder / f"{arguments[-1]}.pid").read_text())
        print("running" if is_running(pid) else "exited")
    elif command == "container":
        print((folder / f"{arguments[-1]}.log").read_text(errors="replace")[-4000:])
    elif command == "kill":
        kill(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
