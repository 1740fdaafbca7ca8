"""Write a captions store as one HTML page: pictures, captions, scores, attention, failures."""

from __future__ import annotations

import argparse

from captionbeam.jobs.evaluate import add_reference_options
from captionbeam.jobs.options.shared import natural, require
from captionbeam.jobs.options.sources import add_private_option

HELP = """\
  captionbeam report --captions captions --references captions_val2014.json --output report.html
  captionbeam report --captions captions --output report.html --images 100

Writes one self-contained page: no script, nothing fetched from anywhere. It shows a sample of the pictures
with their captions, where the model looked while writing each word (captions made with --keep-attention),
scores and the best and worst images against the references, training curves of the bundle, failures by code,
and how everything was made. A picture that cannot be read any more leaves a frame that says why.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam report``."""
    parser.add_argument("--captions", required=True, metavar="STORE", help="a captions store")
    add_reference_options(parser, required=False)
    parser.add_argument("--output", required=True, metavar="FILE", help="where the page is written")
    parser.add_argument(
        "--images",
        type=natural,
        default=24,
        metavar="N",
        help="pictures in the sample, beside ten best and ten worst (default 24)",
    )
    add_private_option(parser)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Reads and scores the captions, renders the page, and writes it."""
    from captionbeam.jobs.reporting.scoring import open_captions, read_references, write_output
    from captionbeam.pipelines.fetch.byte_ranges import FetchOptions

    _check(options)
    store = open_captions(options.captions)
    given = options.references
    references = read_references(given, options.member, options.split) if given else None

    from captionbeam.jobs.reporting.gather import make_page
    from captionbeam.jobs.reporting.page import render

    reading = FetchOptions(allow_private=options.allow_private_addresses)
    page = make_page(store, references, options.images, reading)
    data = render(page).encode()
    write_output(options.output, data)
    shown = sum(len(section.cards) for section in page.sections)
    print(f"{options.output}: {shown:,} of {store.count():,} images, {len(data) / 1e6:.1f} MB")
    if page.note:
        print(page.note)
    return 0


def _check(options: argparse.Namespace) -> None:
    idle = [f"--{name}" for name in ("split", "member") if getattr(options, name) is not None]
    require(
        bool(options.references) or not idle,
        f"{' and '.join(idle)} would do nothing without --references; expected both, or neither",
    )
