"""``captionbeam NAME ...``: runs one command; errors are one sentence each, with an exit status."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

try:
    from captionbeam.jobs.options.command import DONE, ERROR, Command
    from captionbeam.jobs.options.command_line import parse_command
    from captionbeam.jobs.ui.terminal import drop_output, one_line, open_closed_streams, speak
    from captionbeam.schemas.errors import CaptionbeamError, RequestError
except KeyboardInterrupt:  # these imports take a moment, before anything has begun
    raise SystemExit("captionbeam: interrupted") from None

COMMANDS = {
    "encode": "encode:Encode",
    "import-features": "import_features",
    "svd": "svd",
    "tokenize": "tokenize",
    "train": "train:Train",
    "caption": "caption:Caption",
    "evaluate": "evaluate:Evaluate",
    "predictions": "predictions",
    "report": "report:Report",
    "refresh": "refresh:Refresh",
    "store": "store",
    "schedule": "schedule",
    "workers": "workers",
    "demo": "demo",
}
JOBS = tuple(COMMANDS)
OVERVIEW = """\
  captionbeam demo --output demo          # everything below, on a small set that it draws

image captioning as a batch data pipeline; each NAME --help opens with a command to paste:

"""


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
    if not words or words[0] in ("-h", "--help"):
        print("captionbeam NAME ...\n\n" + OVERVIEW + "\n".join(_overview()))
        return DONE
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("captionbeam"))
        return DONE
    command = parse(words)
    if isinstance(command, Command):
        return command.run().status
    return _run_old(command)


def parse(words: Sequence[str]) -> Command:
    """Returns the command that a ``captionbeam`` command line describes. Raises RequestError."""
    name, *rest = words
    if words[:2] == ["store", "retry-failures"]:
        from captionbeam.jobs.store_commands.retry import RetryFailures

        return parse_command(RetryFailures, rest[1:])
    if name == "schedule":
        from captionbeam.jobs import schedule

        return schedule.parse(rest)
    if name not in COMMANDS:
        raise RequestError(f"there is no command {name!r}; expected one of {', '.join(COMMANDS)}")
    module, _, owner = COMMANDS[name].partition(":")
    found = importlib.import_module(f"captionbeam.jobs.{module}")
    return parse_command(getattr(found, owner), rest) if owner else _parse_old(found, name, rest)


def _overview() -> list[str]:
    modules = {name: target.partition(":")[0] for name, target in COMMANDS.items()}
    return [
        f"  {name:15} {(importlib.import_module(f'captionbeam.jobs.{module}').__doc__ or '').splitlines()[0]}"
        for name, module in modules.items()
    ]


# Until every command is a dataclass of options.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise RequestError(f"{message} ({self.prog} --help shows what is expected)")


def _parse_old(job, name, rest):
    from captionbeam.jobs.options.storage import add_storage_options

    parser = _Parser(
        prog=f"captionbeam {name}",
        usage=argparse.SUPPRESS,
        description=job.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(job=name)
    job.add_options(parser)
    if name not in ("store", "schedule", "workers", "demo"):
        add_storage_options(parser)
    if hasattr(job, "expand"):
        rest = job.expand(rest)
    if not getattr(job, "BEAM", False):
        options, beam_args = parser.parse_args(rest), []
    else:
        options, beam_args = parser.parse_known_args(rest)
        if beam_args:
            from captionbeam.pipelines.runners.flags import check_beam_args

            check_beam_args(beam_args)
    options._module, options._beam = job, beam_args
    return options


def _run_old(options):
    from captionbeam.jobs.options.storage import use_storage_options_old

    job, beam = options._module, options._beam
    del options._module, options._beam
    use_storage_options_old(options)
    return job.run(options, beam)


if __name__ == "__main__":
    sys.exit(main())
