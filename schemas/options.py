"""Options: each is one field of a frozen dataclass, made by ``option``.

The field holds the name, the type, the default, the valid values (a ``Kind``), the help text and the role in records.
The command line, the Python API, the checks before a run, the run's record and the reference in the docs read it there.

    @dataclass(frozen=True, kw_only=True)
    class ShardOptions:
        GROUP = "run"
        shard_size: int = option(1024, "images a shard", POSITIVE)

        def __post_init__(self) -> None:
            check_fields(self)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, TypeVar

from captionbeam.schemas.errors import RequestError

Role = Literal["rows", "listing", "source", "part", "run"]
"""How a store's record treats an option.

rows: it determines values; listing: it determines which images are listed or how they are read; source: the same, and
may differ between sources; part: it selects a part of the sources; run: it affects only how the work is done.
"""
T = TypeVar("T")
LARGEST = sys.float_info.max
MANY = 12
"""More choices than this are not listed where one of them is meant."""


@dataclass(frozen=True)
class Kind:
    """The valid values of an option: how one is read from text, what holds for it, how that is said, and its unit.

    choices: the names, if these are a fixed set.
    """

    read: Callable[[str], Any] = str
    holds: Callable[[Any], bool] = lambda value: True
    expected: str = "a text"
    unit: str = "TEXT"
    choices: tuple[str, ...] = ()


def number(
    low: float = -math.inf,
    high: float = math.inf,
    expected: str = "",
    unit: str = "N",
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
) -> Kind:
    """Returns the kind of numbers from ``low`` to ``high``; ``above`` and ``below`` exclude the bound itself."""

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not -LARGEST <= value <= LARGEST or (whole and value != int(value)):  # neither inf nor nan
            return False
        return (low < value if above else low <= value) and (value < high if below else value <= high)

    return Kind(_whole if whole else float, holds, expected or _range(low, high, whole, above, below), unit)


def _whole(text: str) -> int:
    if not text.removeprefix("-").isdigit() or not text.isascii():
        raise ValueError(text)
    return int(text)


def _range(low: float, high: float, whole: bool, above: bool, below: bool) -> str:
    kind = "a whole number" if whole else "a number"
    if math.isfinite(low) and math.isfinite(high) and not above and not below:
        return f"{kind} from {_number(low)} to {_number(high)}"
    bounds = []
    if low > -math.inf:
        bounds.append(f"above {_number(low)}" if above else f"of {_number(low)} or more")
    if high < math.inf:
        bounds.append(f"below {_number(high)}" if below else f"at most {_number(high)}")
    return " ".join([kind, " and ".join(bounds)]).strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def one_of(*names: str, unit: str = "NAME") -> Kind:
    """Returns the kind of a fixed set of names."""
    return Kind(str, lambda value: value in names, f"one of {', '.join(names)}", unit, names)


def text(unit: str, expected: str = "a text", holds: Callable[[Any], bool] = lambda value: True) -> Kind:
    """Returns the kind of texts: ``unit`` is ``URL``, ``FILE``, ..."""
    return Kind(str, lambda value: isinstance(value, str) and holds(value), expected, unit)


def or_none(kind: Kind, word: str) -> Kind:
    """Returns ``kind`` with ``word`` on the command line for None."""
    return dataclasses.replace(
        kind,
        read=lambda given: None if given == word else kind.read(given),
        expected=f"{kind.expected}, or {word}",
        unit=f"{word}|{kind.unit}",
    )


def _share_or_number(value: Any) -> bool:
    return number(0).holds(value) and (value < 1 or value == int(value))


POSITIVE = number(1, whole=True, expected="a whole number above 0")
NATURAL = number(0, whole=True, expected="a whole number of 0 or more")
SHARE = number(0, 1, "a share from 0 to 1", "SHARE")
SHARE_OR_NUMBER = Kind(float, _share_or_number, "a share below 1, or a whole number", "N")
MONEY = number(0, expected="an amount of 0 or more", unit="MONEY")
SECONDS = number(0, above=True, expected="a number of seconds above 0", unit="SECONDS")
SIDE = number(32, 2048, "a whole number of pixels from 32 to 2,048", "PIXELS", whole=True)
CHANNELS = number(1, 16_384, "a whole number of channels from 1 to 16,384", whole=True)
NAME, URL, FILE, STORE = text("NAME"), text("URL"), text("FILE"), text("STORE")
_ONE_DEVICE = r"cpu|cuda(:[0-9]+)?"
DEVICE = text(
    "NAME", "auto, cpu, cuda or cuda:N", lambda value: re.fullmatch(f"auto|{_ONE_DEVICE}", value) is not None
)
DEVICES = text(
    "NAME",
    "auto, cpu, cuda, cuda:N or cuda:N,cuda:M",
    lambda value: re.fullmatch(f"auto|({_ONE_DEVICE})(,({_ONE_DEVICE}))*", value) is not None,
)
PRECISION = one_of("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Option:
    """What a field says of its option besides name, type and default.

    positional: given without a flag. repeated: a tuple whose flag is repeated. several: likewise, and one flag may have
    several values. split: a tuple given as one text with commas. common: shown by ``--help``, where the command has too
    many options for one screen. role: in records. location: a path or URL, recorded as an absolute one. instead_of:
    fields that this one replaces. flag: its name on the command line, if another. secret: left out of ``repr``. opens:
    raises RequestError if a local input is not there; called before the work is imported.
    """

    help: str
    kind: Kind
    positional: bool = False
    repeated: bool = False
    several: bool = False
    split: bool = False
    common: bool = False
    role: Role = "run"
    location: bool = False
    instead_of: tuple[str, ...] = ()
    flag: str = ""
    secret: bool = False
    opens: Callable[[str], None] | None = None


def option(default: Any, help: str, kind: Kind = NAME, **more: Any) -> Any:
    """Returns a dataclass field with its ``Option``; ``default`` is ``...`` if the option is required."""
    shown_in_repr = not more.get("secret", False)
    metadata = {"option": Option(help, kind, **more)}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, repr=shown_in_repr, metadata=metadata)


def like(owner: type, name: str, **changes: Any) -> Any:
    """Returns the field ``name`` of ``owner`` with another default (``default=``) or with other parts of its Option."""
    source = owner.__dataclass_fields__[name]  # type: ignore[attr-defined]
    default = changes.pop("default", source.default)
    metadata = {"option": dataclasses.replace(source.metadata["option"], **changes)}
    return dataclasses.field(default=default, metadata=metadata)


def options_of(owner: Any) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """Yields the fields of a dataclass (or of an instance) that are options."""
    for field in dataclasses.fields(owner):
        if found := field.metadata.get("option"):
            yield field, found


def flag_of(name: str, found: Option | None = None) -> str:
    """Returns the option's name on the command line: ``--max-failures``."""
    return found.flag if found and found.flag else f"--{name.replace('_', '-')}"


def shown(field: dataclasses.Field[Any], found: Option) -> str:
    """Returns the option's name for messages: its flag, or the unit of a positional one."""
    return found.kind.unit if found.positional else flag_of(field.name, found)


def is_switch(field: dataclasses.Field[Any]) -> bool:
    """Whether the option is true or false."""
    return str(getattr(field.type, "__name__", field.type)).partition(" ")[0] == "bool"


def read(field: dataclasses.Field[Any], found: Option, given: str) -> Any:
    """Returns the value that the text ``given`` stands for. Raises RequestError."""
    try:
        if found.split:
            return tuple(found.kind.read(part.strip()) for part in given.split(","))
        return found.kind.read(given)
    except ValueError as err:
        raise _wrong(field, found, given) from err


def check_fields(owner: Any) -> None:
    """Raises RequestError for the first option of ``owner`` whose value is not valid; lists become tuples.

    None is valid where it is the default. Paths (``os.PathLike``) become texts, and a mapping ``NAME=VALUE`` texts.
    """
    for field, found in options_of(owner):
        value = getattr(owner, field.name)
        if value is None and field.default is None:
            continue
        if is_switch(field):
            if not isinstance(value, bool):
                raise RequestError(f"{shown(field, found)} is {value!r}; expected True or False")
            continue
        many = found.repeated or found.several or found.split or isinstance(field.default, tuple)
        if many and isinstance(value, Mapping):
            value = tuple(f"{name}={each}" for name, each in value.items())
        elif many:
            value = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
        value = tuple(map(_text, value)) if many else _text(value)
        for part in value if many else (value,):
            if not found.kind.holds(part):
                raise _wrong(field, found, part)
        if many and not value and field.default is MISSING:
            raise RequestError(f"{shown(field, found)} is missing; expected one or more")
        object.__setattr__(owner, field.name, value if many else _as_read(found.kind, value))


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_read(kind: Kind, value: Any) -> Any:
    """Returns a number in the type that the command line reads: records and fingerprints tell 1 from 1.0."""
    if kind.read is float:
        return float(value)
    return int(value) if kind.read is _whole else value


def _wrong(field: dataclasses.Field[Any], found: Option, value: Any) -> RequestError:
    kind, expected = found.kind, found.kind.expected
    near = difflib.get_close_matches(str(value), kind.choices, 1)
    if near and len(kind.choices) > MANY:
        expected = f"one of {len(kind.choices)} names that --help lists"
    hint = f"; did you mean {near[0]}?" if near else ""
    return RequestError(f"{shown(field, found)} is {value!r}; expected {expected}{hint}")


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Returns the field's default; None for a required option."""
    return None if field.default is MISSING else field.default


def changed(owner: Any, roles: tuple[Role, ...] = ()) -> dict[str, Any]:
    """Returns the options of ``owner`` that are not at their defaults, of all roles or of ``roles``."""
    return {
        field.name: getattr(owner, field.name)
        for field, found in options_of(owner)
        if (not roles or found.role in roles) and getattr(owner, field.name) != field.default
    }


def part_of(owner: type[T], values: Any) -> T:
    """Returns an instance of the dataclass ``owner`` with the fields of the same names in ``values``."""
    return owner(**{field.name: getattr(values, field.name) for field in dataclasses.fields(owner)})  # type: ignore[arg-type]


def groups_of(owner: type) -> Mapping[str, list[tuple[dataclasses.Field[Any], Option]]]:
    """Returns the options by the GROUP of the class that declares them: the command's own first, then its bases'."""
    found: dict[str, list[tuple[dataclasses.Field[Any], Option]]] = {}
    left = {field.name: (field, own) for field, own in options_of(owner)}
    for base in owner.__mro__:
        for name in [name for name in vars(base).get("__annotations__", {}) if name in left]:
            found.setdefault(vars(base).get("GROUP", ""), []).append(left.pop(name))
    return found
