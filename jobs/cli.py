"""``captionbeam NAME ...``: runs one command; errors are one sentence each, with an exit status."""

from __future__ import annotations

import ast
import atexit
import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from captionbeam.jobs import COMMANDS
    from captionbeam.jobs.options.command import DONE, ERROR, Command
    from captionbeam.jobs.options.command_line import parse_command
    from captionbeam.jobs.ui.terminal import drop_output, one_line, open_closed_streams, speak
    from captionbeam.schemas.errors import CaptionbeamError, RequestError
except KeyboardInterrupt:  # these imports take a moment, before anything has begun
    raise SystemExit("captionbeam: interrupted") from None

GROUPS = {
    "store": "Lists, checks, exports and cleans up the snapshots of a store.",
    "schedule": "Prints a schedule of nightly refreshes for Airflow, Kubernetes or Cloud Scheduler.",
}
SYNONYMS = {"list": "ls", "info": "show", "remove": "purge", "delete": "purge", "check": "verify"}
HELP = ("-h", "--help")
OVERVIEW = """\
captionbeam COMMAND ...

  captionbeam demo --output demo          # runs all steps on a small set of drawn pictures

Image captioning as a batch data pipeline. The help of each command begins with an example.

"""


def run_process() -> int:
    """Runs this process's command, as ``main``, and lets the process end without freeing its memory piece by piece.

    The interpreter's exit, and the garbage collector while thousands of modules are imported, take a second each.
    """
    gc.set_threshold(10_000, 10, 10)
    statuses: list[int] = []

    def leave() -> None:
        if statuses:
            sys.stderr.flush()
            os._exit(statuses[0])

    atexit.register(leave)  # runs last, as it is registered first
    statuses.append(main())
    return statuses[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0 (done), 1 (error), 2 (wrong request) or 3 (done with many failures)."""
    open_closed_streams()
    before = speak(True)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except CaptionbeamError as err:
        print(f"captionbeam: {one_line(err)}", file=sys.stderr)
        return err.exit_status
    except BrokenPipeError:
        drop_output()
        return ERROR
    except OSError as err:  # a disk or network error, whose message names the file
        print(f"captionbeam: {one_line(err)}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        kept = "" if "--dry-run" in words else "; the same command resumes"
        print(f"captionbeam: interrupted{kept}", file=sys.stderr)
        return ERROR
    finally:
        speak(before)


def _run(words: list[str]) -> int:
    if not words or words[0] in HELP:
        print(OVERVIEW + "\n".join(_summaries("")))
        return DONE
    if words[0] == "--version":
        import captionbeam

        print(captionbeam.__version__)
        return DONE
    if words[0] in GROUPS and (not words[1:] or words[1] in HELP):
        print(
            f"{_example(words[0])}\n\ncaptionbeam {words[0]} COMMAND ...\n\n"
            + "\n".join(_summaries(words[0]))
        )
        return DONE
    return parse(words).run().status


def parse(words: Sequence[str]) -> Command:
    """Returns the command that a ``captionbeam`` command line describes. Raises RequestError."""
    size = 2 if " ".join(words[:2]) in COMMANDS else 1
    name, rest = " ".join(words[:size]), words[size:]
    if name not in COMMANDS:
        inside = [one.partition(" ")[2] for one in COMMANDS if one.startswith(f"{name} ")]
        names = inside or dict.fromkeys(one.partition(" ")[0] for one in COMMANDS)
        given = " ".join(words[:2]) if inside else name
        word = given.rpartition(" ")[2]
        near = [*{SYNONYMS.get(word)} & {*names}] or difflib.get_close_matches(word, [*names], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"there is no command {given!r}; expected one of {', '.join(names)}{hint}")
    return parse_command(find_command(name), rest)


def find_command(name: str) -> type[Command]:
    """Returns the class of a command."""
    module, _, owner = COMMANDS[name].partition(":")
    found: type[Command] = getattr(importlib.import_module(f"captionbeam.jobs.{module}"), owner)
    return found


def _example(group: str) -> str:
    """Returns the example that the help of the group's first command opens with."""
    first = next(name for name in COMMANDS if name.startswith(f"{group} "))
    return find_command(first).HELP.partition("\n\n")[0]


def _summaries(group: str) -> list[str]:
    """Returns a line for each command of ``group``, or for each command and group if that is empty."""
    shown = {}
    for name in COMMANDS:
        first = name.partition(" ")[0]
        if not group and first in GROUPS:
            shown[first] = GROUPS[first]
        elif not group or first == group:
            shown[name] = _summary(name)
    return [f"  {name:24} {said}" for name, said in shown.items()]


def _summary(name: str) -> str:
    """Returns the first line of the class's docstring, without importing the class."""
    module, _, owner = COMMANDS[name].partition(":")
    path = Path(__file__).parent / f"{module.replace('.', '/')}.py"
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    docs = [ast.get_docstring(node) or "" for node in classes if node.name == owner]
    return docs[0].partition("\n")[0]


if __name__ == "__main__":
    sys.exit(run_process())
