"""Caption images, or a store of features: into a store of Parquet, or printed."""

from __future__ import annotations

import argparse

from captionbeam.jobs.options.captioners import add_captioner_options, captioning, check_captioner
from captionbeam.jobs.options.decoding import add_decoding_options, check_decoding, decode_options
from captionbeam.jobs.options.shared import add_run_options, refuse, refuse_group, require
from captionbeam.jobs.options.sources import add_fetch_options, add_source_options, check_seed, parsed_sources
from captionbeam.jobs.run_on.options import add_launch_options

HELP = """\
  captionbeam caption new_photos/ --bundle bundle --output captions --beam 3
  captionbeam caption --features features --bundle bundle --output captions
  captionbeam caption --bundle bundle one.jpg
  captionbeam caption new_photos/ --captioner hf:blip-image-captioning-base --output captions

Writes captions for the images of every SOURCE (as for encode), encoder and decoder in one pass, or for the rows of a
features store; what the store has already is not done again. Without --output the captions are printed.
"""
BEAM = True
RUN_OPTIONS = (
    "shard_size",
    "threads",
    "retry_failures",
    "max_failures",
    "warn_failures",
    "price_per_hour",
    "publish_anyway",
    "dry_run",
    "gpu",
    "totals",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam caption``."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the images are")
    add_captioner_options(parser)
    parser.add_argument("--output", metavar="STORE", help="the captions store, new or with earlier snapshots")
    parser.add_argument("--features", metavar="STORE", help="a features store, instead of SOURCE")
    parser.add_argument(
        "--precision",
        default=None,
        metavar="NAME",
        help="of the encoder and decoder: fp32, bf16 or auto (default: as the bundle's features were made; fp32 with "
        "--captioner)",
    )
    add_decoding_options(parser.add_argument_group("decoding"))
    add_source_options(parser)
    add_run_options(parser)
    add_launch_options(parser)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Prints captions, or runs the pipeline and reports. Returns the exit status."""
    check_sources(options)
    check_captioner(options)
    check_decoding(options)
    check_seed(options, options.method == "sample")
    if options.output is None:
        require(not options.features, "--features needs --output; expected a folder for the captions")
        refuse(options, RUN_OPTIONS, "without --output")
        require(
            not beam_args,
            f"{' '.join(beam_args)} would do nothing without --output; expected to leave it out",
        )
        from captionbeam.jobs.bulk.caption_now import print_captions

        return print_captions(parsed_sources(options), decode_options(options), options)
    from captionbeam.jobs.bulk.launch import gates_of, launch
    from captionbeam.jobs.run_on.target import settle_job

    target = settle_job(options, beam_args)
    return launch(
        captioning(options, decode_options(options)), options.output, options, target, gates_of(options)
    )


def check_sources(options: argparse.Namespace) -> None:
    """Raises RequestError unless either images or features are given."""
    require(
        bool(options.sources) != bool(options.features),
        "captions need one of SOURCE and --features; expected exactly one",
    )
    if options.features:
        refuse(
            options, ("image_root", "id_column", "uri_column", "bytes_column", "inventory"), "with --features"
        )
        refuse_group(options, add_fetch_options, "with --features")
