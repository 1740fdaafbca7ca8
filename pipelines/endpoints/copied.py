"""Answers to unchanged prompts, copied from the rows that a redo replaces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.prompts import Prompt
from captionbeam.pipelines.workers.reuse import replaced_rows
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import DataFile, open_data, read_rows
from captionbeam.schemas.records import ImageRef

Answers = list[dict[str, Any]]


def copied_answers(
    run: Run, refs: Sequence[ImageRef], prompts: Sequence[Prompt]
) -> dict[tuple[str, str], Answers]:
    """Returns the answers of ``run.previous`` to those of ``prompts`` that it had, by content and fingerprint.

    Reads each needed data file once. A file that a vacuum removed meanwhile gives none.
    """
    if run.previous is None:
        return {}
    by_url: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for (_, content), (url, row) in replaced_rows(run, refs, run.previous):
        by_url[url][row] = content
    found: dict[tuple[str, str], Answers] = {}
    for url, contents in sorted(by_url.items()):
        try:
            with closing(open_data(url)) as data:
                columns = _columns(data, {prompt.fingerprint for prompt in prompts})
                for numbers, batch in read_rows(data, sorted(contents), list(columns)) if columns else ():
                    for name, prompt in columns.items():
                        for number, answers in zip(numbers, batch.column(name).to_pylist(), strict=True):
                            found[contents[number], prompt] = answers
        except FileNotFoundError:
            continue
    return found


def _columns(data: DataFile, wanted: set[str]) -> dict[str, str]:
    """Returns the columns of a data file with answers to the ``wanted`` prompts, with the prompt's fingerprint."""
    prompts = {
        field.name: field.metadata[arrow.PROMPT_KEY].decode()
        for field in data.schema
        if arrow.PROMPT_KEY in (field.metadata or {})
    }
    return {name: prompt for name, prompt in prompts.items() if prompt in wanted}
