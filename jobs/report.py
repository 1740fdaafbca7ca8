"""Write a captions store as one HTML page: pictures, captions, scores, attention, failures."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.jobs.evaluate import ColumnOptions, ReferenceOptions
from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.options.sources import ReadingOptions
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.counts import counted
from captionbeam.schemas.options import FILE, NATURAL, STORE, like, option


@dataclass(frozen=True, kw_only=True)
class Report(ReferenceOptions, ColumnOptions, Command):
    """Writes a captions store as one HTML page."""

    HELP = """\
  captionbeam report --captions captions --references captions_val2014.json --output report.html
  captionbeam report --captions captions --output report.html --images 100

Writes one self-contained page: no script, nothing fetched from anywhere. It shows a sample of the pictures
with their captions, where the model looked while writing each word (captions made with --keep-attention),
scores and the best and worst images against the references, training curves of the bundle, failures by code,
and how everything was made. A picture that cannot be read any more leaves a frame that says why.
"""
    name = "report"

    captions: str = option(..., "a captions store", STORE, common=True, opens=inputs.store)
    output: str = option(..., "the page that is written", FILE, common=True)
    images: int = option(24, "images in the sample, besides the ten best and the ten worst", NATURAL)
    allow_private_addresses: bool = like(ReadingOptions, "allow_private_addresses")

    def execute(self) -> Result:
        """Reads and scores the captions, renders the page, and writes it."""
        from captionbeam.jobs.reporting.scoring import chosen_column, open_captions, write_output
        from captionbeam.pipelines.fetch.byte_ranges import FetchOptions

        store = open_captions(self.captions)
        column = chosen_column(store.columns, self.column, self.captions)
        references = self.read_references() if self.references else None

        from captionbeam.jobs.reporting.gather import make_page
        from captionbeam.jobs.reporting.page import render

        page = make_page(
            store, column, references, self.images, FetchOptions(allow_private=self.allow_private_addresses)
        )
        data = render(page).encode()
        write_output(self.output, data)
        shown = sum(len(section.cards) for section in page.sections)
        say(
            f"{self.output}: {shown:,} of {counted(store.count(), 'image')} shown (--images), {len(data) / 1e6:.1f} MB"
        )
        if page.note:
            say(page.note)
        return Result(totals={"images": shown, "bytes": len(data)}, output=self.output)
