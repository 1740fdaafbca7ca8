"""``captionbeam NAME ...``: runs one job; errors are one sentence each, with an exit status."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

try:
    from captionbeam.jobs.options.storage import add_storage_options, use_storage_options
    from captionbeam.jobs.ui.terminal import drop_output, one_line, open_closed_streams
    from captionbeam.schemas.errors import CaptionbeamError, RequestError
except KeyboardInterrupt:  # these imports take a moment, before anything has begun
    raise SystemExit("captionbeam: interrupted") from None

JOBS = (
    "encode",
    "import-features",
    "svd",
    "tokenize",
    "train",
    "caption",
    "evaluate",
    "predictions",
    "report",
    "refresh",
    "store",
    "schedule",
    "workers",
    "demo",
)
# ``store`` adds the option to each of its commands; ``schedule`` passes it on
OPEN_STORAGE = (
    "encode",
    "import-features",
    "svd",
    "tokenize",
    "train",
    "caption",
    "evaluate",
    "predictions",
    "report",
    "refresh",
)
DONE, ERROR, WRONG_REQUEST, WARNED = 0, 1, 2, 3
OVERVIEW = """\
  captionbeam demo --output demo          # everything below, on a small set that it draws

image captioning as a batch data pipeline; each NAME --help opens with a command to paste:

"""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a RequestError."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message} ({self.prog} --help shows what is expected)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one job. Returns 0 (done), 1 (error), 2 (wrong request) or 3 (done with many failures)."""
    open_closed_streams()
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
        kept = "" if "--dry-run" in words else "; the same command goes on from here"
        print(f"captionbeam: interrupted{kept}", file=sys.stderr)
        return ERROR


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("captionbeam NAME ...\n\n" + OVERVIEW + "\n".join(_overview()))
        return DONE
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("captionbeam"))
        return DONE
    options, beam_args = parse(arguments)
    if arguments[0] in (*OPEN_STORAGE, "store"):
        use_storage_options(options)
    return _job(arguments[0]).run(options, beam_args)


def _job(name: str) -> ModuleType:
    if name not in JOBS:
        raise RequestError(f"no job {name!r}; expected one of {', '.join(JOBS)}")
    return importlib.import_module(_module(name))


def _module(name: str) -> str:
    return f"captionbeam.jobs.{name.replace('-', '_')}"


def _overview() -> list[str]:
    return [
        f"  {name:15} {(importlib.import_module(_module(name)).__doc__ or '').splitlines()[0]}"
        for name in JOBS
    ]


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of a ``captionbeam`` command line, and the flags for Beam. Raises RequestError."""
    name, *rest = arguments
    job = _job(name)
    parser = _Parser(
        prog=f"captionbeam {name}",
        usage=argparse.SUPPRESS,
        description=job.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(job=name)
    job.add_options(parser)
    if name in OPEN_STORAGE:
        add_storage_options(parser)
    if hasattr(job, "expand"):
        rest = job.expand(rest)
    if not getattr(job, "BEAM", False):
        return parser.parse_args(rest), []
    options, beam_args = parser.parse_known_args(rest)
    if getattr(job, "REPEATS", False):
        options.named = _named(job, name, rest)
    if beam_args:
        from captionbeam.pipelines.runners.flags import check_beam_args

        check_beam_args(beam_args)
    return options, beam_args


def _named(job: ModuleType, name: str, words: Sequence[str]) -> set[str]:
    """Returns the options that a command line names, with any values."""
    parser = _Parser(prog=f"captionbeam {name}", add_help=False, allow_abbrev=False)
    job.add_options(parser)
    add_storage_options(parser)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return set(vars(parser.parse_known_args(list(words))[0]))


if __name__ == "__main__":
    sys.exit(main())
