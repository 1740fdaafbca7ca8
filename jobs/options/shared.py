"""Options that several jobs share, and argparse types."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from captionbeam.schemas.errors import RequestError

MOST_CHANNELS = 16_384


def positive(text: str) -> int:
    """Parses a whole number above zero."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """Parses a whole number of zero or more."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def all_or_number(text: str) -> int | None:
    """Parses a whole number above zero; ``all`` gives None."""
    return None if text == "all" else positive(text)


def side(text: str) -> int:
    """Parses an image size in pixels."""
    if not text.isascii() or not text.isdigit() or not 32 <= int(text) <= 2048:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of pixels from 32 to 2048")
    return int(text)


def channels(text: str) -> int:
    """Parses a layer width; the limit avoids out-of-memory errors on workers."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_CHANNELS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number of channels from 1 to {MOST_CHANNELS:,}"
        )
    return int(text)


def share(text: str) -> float:
    """Parses a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def share_or_number(text: str) -> float:
    """Parses a share below 1, or a whole number."""
    value = _number(text)
    if not 0 <= value < float("inf") or (value >= 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share below 1 nor a whole number")
    return value


def price(text: str) -> float:
    """Parses an amount of money of zero or more."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of 0 or more")
    return value


def seconds(text: str) -> float:
    """Parses a number of seconds above zero."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from err
    if value != value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def add_run_options(parser: argparse.ArgumentParser, retry: bool = True, model: bool = True) -> None:
    """Adds the group ``run``: shards, failure limits and cost.

    ``retry``: includes the options for failures. ``model``: includes the options for a model.
    """
    group = parser.add_argument_group("run")
    group.add_argument(
        "--shard-size",
        type=positive,
        default=1024,
        metavar="N",
        help="images a shard: the unit of work and of resuming (default 1024)",
    )
    if model:
        _add_model(group)
    group.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="of each worker process, for decoding and the model (default: OMP_NUM_THREADS, else the cores it may use, "
        "divided by the worker processes on its machine as far as Beam's options tell them)",
    )
    if retry:
        group.add_argument(
            "--totals",
            metavar="FILE",
            help="also write the run's totals there, as JSON: snapshot, rows, failures, ...; empty until then",
        )
        group.add_argument(
            "--retry-failures",
            action="store_true",
            help="do permanent failures again too; transient ones are anyhow",
        )
    group.add_argument(
        "--max-failures",
        type=share_or_number,
        metavar="N",
        help="fail, and publish nothing, if more images than this share or number failed",
    )
    group.add_argument(
        "--warn-failures",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="exit with status 3 if a larger share failed (default 0.05)",
    )
    group.add_argument(
        "--publish-anyway",
        action="store_true",
        help="publish also what looks wrong: many more failures than the store's newest snapshot has, captions that "
        "collapsed or are all empty or equal",
    )
    group.add_argument(
        "--price-per-hour",
        type=price,
        metavar="MONEY",
        help="of the machines together; the summary then says what a million images cost",
    )


def _add_model(group: Any) -> None:
    group.add_argument(
        "--batch-size", type=positive, metavar="N", help="images a forward pass (default: by device)"
    )
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)"
    )


def clear_totals(options: argparse.Namespace) -> None:
    """Empties the file of --totals, so that it never has an earlier run's totals. Raises RequestError."""
    from captionbeam.schemas.storage import files

    if options.totals:
        try:
            files.write_in_place(options.totals, b"")
        except OSError as err:
            said = f"--totals {options.totals!r} cannot be written ({err.strerror or err})"
            raise RequestError(f"{said}; expected a file in a folder that is there") from err


def refuse(options: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """Raises RequestError if one of the options ``names``, which have no effect ``where``, is set."""
    usual = {
        "shard_size": 1024,
        "warn_failures": 0.05,
        "retry_failures": False,
        "publish_anyway": False,
        "inventory": [],
        "dry_run": False,
    }
    _refuse_changed(options, {name: usual.get(name) for name in names}, where)


def refuse_group(options: argparse.Namespace, add: Callable[[Any], None], where: str) -> None:
    """Raises RequestError if an option that ``add`` adds to a parser is set."""
    _refuse_changed(options, dests(add), where)


def dests(add: Callable[[Any], None]) -> dict[str, Any]:
    """Returns the options that ``add`` adds to a parser, by name, with their defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    return vars(parser.parse_args([]))


def _refuse_changed(options: argparse.Namespace, usual: dict[str, Any], where: str) -> None:
    idle = [name for name, value in usual.items() if getattr(options, name) != value]
    said = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
    require(not idle, f"{said} would do nothing {where}; expected to leave it out")


def as_record(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options for the run's record."""
    return {name: value for name, value in vars(options).items() if not callable(value) and name != "named"}


def require(condition: bool, sentence: str) -> None:
    """Raises RequestError with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise RequestError(sentence)


def read_ids(url: str) -> frozenset[str]:
    """Returns the image ids in the text file at ``url``, one per line, with spaces kept. Raises RequestError."""
    from captionbeam.schemas.storage import files

    try:
        text = files.read_bytes(url).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(
            f"--ids {url!r} cannot be read ({err}); expected a text file, an id a line"
        ) from err
    found = frozenset(line.removesuffix("\r") for line in text.split("\n")) - {""}
    require(bool(found), f"--ids {url!r} has no id in it; expected an id a line")
    return found
