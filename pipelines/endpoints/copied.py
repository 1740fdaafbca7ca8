"""Answers to unchanged prompts, copied from the rows that are replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import closing

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.prompts import Answers, Prompt
from captionbeam.pipelines.workers.reuse import Replaced, replaced_rows
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import DataFile, open_data, read_rows
from captionbeam.schemas.formats.kept import unpacked
from captionbeam.schemas.records import ImageRef


def copied_answers(
    run: Run, refs: Sequence[ImageRef], prompts: Sequence[Prompt]
) -> dict[tuple[str, str], dict[str, Answers]]:
    """Returns the answers of the replaced rows to those of ``prompts`` that they have.

    They are by key (``Prompt.key``) and the prompt's fingerprint, then by the image's id.
    The rows are those of ``run.previous``; without it, those of images whose values in columns of prompts changed;
    and those that an interrupted run committed. Reads each needed data file once. A file that a vacuum removed
    meanwhile gives none.
    """
    base = run.base if run.previous is None else run.previous
    if run.previous is None and not run.used_columns:
        return {}
    by_url: defaultdict[str, dict[int, Replaced]] = defaultdict(dict)
    for replaced in replaced_rows(run, refs, base):
        url, row = replaced.place
        by_url[url][row] = replaced
    wanted = {prompt.fingerprint: prompt for prompt in prompts}
    found: defaultdict[tuple[str, str], dict[str, Answers]] = defaultdict(dict)
    for url, rows in sorted(by_url.items()):
        try:
            with closing(open_data(url)) as data:
                columns = _columns(data, wanted)
                for numbers, batch in read_rows(data, sorted(rows), list(columns)) if columns else ():
                    replaced_here = [rows[number] for number in numbers]
                    for name, prompt in columns.items():
                        for one, answers in zip(replaced_here, batch.column(name).to_pylist(), strict=True):
                            key = wanted[prompt].key(one.content, unpacked(one.used))
                            found[key, prompt][one.image_id] = answers
        except FileNotFoundError:
            continue
    return dict(found)


def _columns(data: DataFile, wanted: Collection[str]) -> dict[str, str]:
    """Returns the columns of a data file with answers to the ``wanted`` prompts, with the prompt's fingerprint."""
    prompts = {
        field.name: field.metadata[arrow.PROMPT_KEY].decode()
        for field in data.schema
        if arrow.PROMPT_KEY in (field.metadata or {})
    }
    return {name: prompt for name, prompt in prompts.items() if prompt in wanted}
