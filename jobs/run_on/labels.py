"""Names and labels of a Dataflow job, in Google Cloud's syntax."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Mapping, Sequence

from captionbeam.jobs.options.shared import require

LONGEST, MOST_BYTES, MOST_LABELS = 63, 128, 64  # characters and bytes of a key or value; labels of a job
NAME = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?")  # from the API's description


def job_name(job: str, run_id: str) -> str:
    """Returns for example ``captionbeam-encode-20260102-030405-0a1b2c3d``: lower case, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", f"captionbeam-{job}-{run_id}".lower()).strip("-")[:LONGEST].rstrip("-")


def check_job_name(name: str) -> None:
    """Raises RequestError for a job name that Google's API does not accept."""
    require(
        NAME.fullmatch(name) is not None,
        f"--job_name {name!r} is no name of a job; expected lower-case letters, digits and hyphens, at most 1024, a "
        "letter first and no hyphen last",
    )


def own_labels(job: str, run_id: str, store: str) -> dict[str, str]:
    """Returns the labels that identify our jobs, for search and cost reports."""
    return {
        "captionbeam-job": _value(job),
        "captionbeam-run": _value(run_id),
        "captionbeam-store": _value(store.partition("://")[2] or store),
    }


def _value(text: str) -> str:
    """Returns ``text`` as a label's value; keeps the end of a long one, which is more specific."""
    return re.sub("[^a-z0-9_-]", "_", text.lower())[-LONGEST:]


def user_labels(given: Sequence[str] | None) -> dict[str, str]:
    """Parses ``--labels`` like Beam: ``key=value``, or a dictionary. Raises RequestError for an invalid label."""
    found: dict[str, str] = {}
    for text in given or ():
        found.update(_dictionary(text) if "{" in text else [_pair(text)])
    for key, value in found.items():
        _check(key, value)
    return found


def all_labels(own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Returns both; the user's win. Raises RequestError for more than a job may have."""
    both = {**own, **given}
    require(
        len(both) <= MOST_LABELS,
        f"{len(both)} labels; expected at most {MOST_LABELS}, {len(own)} of them ours",
    )
    return both


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise _wrong(text)
    return key, value


def _dictionary(text: str) -> dict[str, str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError) as err:
        raise _wrong(text) from err
    if not isinstance(found, dict) or not all(
        isinstance(part, str) for pair in found.items() for part in pair
    ):
        raise _wrong(text)
    return found


def _wrong(text: str) -> Exception:
    from captionbeam.schemas.errors import RequestError

    return RequestError(f'--labels {text!r} is no label; expected KEY=VALUE or \'{{"KEY": "VALUE"}}\'')


def _check(key: str, value: str) -> None:
    short = all(len(text) <= LONGEST and len(text.encode()) <= MOST_BYTES for text in (key, value))
    require(
        short and all(map(_fits, key + value)) and key != "" and _letter(key[0]),
        f"{key}={value} is not a label of Google Cloud; expected lower-case letters, digits, _ and -, at most "
        f"{LONGEST} in key and value, and a letter first in the key",
    )


def _fits(one: str) -> bool:
    return _letter(one) or unicodedata.category(one)[0] == "N" or one in "_-"


def _letter(one: str) -> bool:
    """Whether it is lower case, or of an alphabet without case."""
    return unicodedata.category(one) in ("Ll", "Lo")
