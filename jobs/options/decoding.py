"""Options of caption generation."""

from __future__ import annotations

import argparse
from typing import Any

from captionbeam.jobs.options.shared import natural, positive, require


def add_decoding_options(group: Any) -> None:
    """Adds the group ``decoding``."""
    group.add_argument(
        "--method", default="beam", metavar="NAME", help="greedy, beam or sample (default beam)"
    )
    group.add_argument(
        "--n-best", type=positive, default=1, metavar="N", help="captions an image, best first (default 1)"
    )
    _add_beam(group)
    _add_sampling(group)
    group.add_argument(
        "--no-repeat-ngram",
        type=natural,
        default=0,
        metavar="N",
        help="write no N tokens in a row (words, or the pieces of a byte-pair tokenizer) twice in a caption, "
        "counting the prefix's (default 0: they may be)",
    )
    group.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="tokens, start and end counted (default: the bundle's)",
    )
    group.add_argument("--prefix", default="", metavar="WORDS", help="that every caption starts with")
    group.add_argument("--allow-unk", action="store_true", help="let the word for unknown words be written")
    group.add_argument(
        "--keep-attention",
        action="store_true",
        help="keep each word's attention over the grid (of a transformer the last layer's, the mean of its heads)",
    )


def _add_beam(group: Any) -> None:
    group.add_argument(
        "--beam",
        type=positive,
        metavar="N",
        help="beginnings kept by beam search (default: as many as the bundle was scored with; 3 where that was greedy "
        "search, or with --captioner)",
    )
    group.add_argument(
        "--length-penalty",
        type=float,
        metavar="A",
        help="of --method beam: rank captions by log-probability / penalty, so that a higher A favours longer ones; "
        "the log-probability that is kept stays the plain sum (default: as the bundle was scored; 0, no penalty, where "
        "that was without one, or with --captioner)",
    )
    group.add_argument(
        "--length-formula",
        default="length",
        metavar="NAME",
        help="the penalty for n tokens, end counted: length is n^A, as in Hugging Face transformers; gnmt is "
        "((5 + n) / 6)^A, as Wu et al. 2016 have it (default length)",
    )
    group.add_argument(
        "--beam-groups",
        type=positive,
        default=1,
        metavar="G",
        help="of --method beam: diverse beam search (Vijayakumar et al. 2018), the beam in G groups of equal size that "
        "avoid each other's words; --n-best takes the best of each group first (default 1)",
    )
    group.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="LAMBDA",
        help="of --beam-groups: what a word's log-probability loses for each caption of the groups before that took "
        "it at the same step",
    )


def _add_sampling(group: Any) -> None:
    group.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="of --method sample, whose draws come from --seed and the image's id (default 1)",
    )
    group.add_argument(
        "--temperature-convention",
        default="logit-division",
        metavar="NAME",
        help="what T does to a word's probability p, as the literature has two: logit-division draws from p^(1/T), so "
        "below 1 is bolder and above 1 flatter; probability-power draws from p^T, so above 1 is bolder and below 1 "
        "flatter; one at T is the other at 1/T (default logit-division)",
    )
    group.add_argument(
        "--top-k",
        type=natural,
        default=0,
        metavar="K",
        help="sample from the K likeliest words (default 0: all)",
    )
    group.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the likeliest words that make up P (default 1: all)",
    )


def decode_options(options: argparse.Namespace) -> Any:
    """Returns the validated options of the group. Raises RequestError, BundleError."""
    from captionbeam.capmodel.generation.options import DecodeOptions

    check_decoding(options)
    given = {name: getattr(options, name) for name in DecodeOptions.__dataclass_fields__}
    return DecodeOptions(**{**given, **_search(options)})


def check_decoding(options: argparse.Namespace) -> None:
    """Raises RequestError for exclusive options or options without effect, before any file is read."""
    from captionbeam.capmodel.generation.options import METHODS, ONLY_OF, DecodeOptions

    given = {name: getattr(options, name) for name in DecodeOptions.__dataclass_fields__}
    # --seed also applies to the listing
    unsaid = {"beam": None, "length_penalty": None, "seed": options.seed}
    usual = {**vars(DecodeOptions()), **unsaid}
    others = [name for method in METHODS if method != given["method"] for name in ONLY_OF.get(method, ())]
    idle = [name for name in others if given[name] != usual[name]]
    named = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
    require(
        not idle,
        f"{named} would do nothing with --method {options.method}; expected another method, or to leave it out",
    )
    drawn = [name for name in ("temperature", "top_p") if given[name] != usual[name]]
    require(
        options.top_k != 1 or not drawn,
        f"--{' and --'.join(drawn).replace('_', '-')} would do nothing with --top-k 1, which leaves one word to draw; "
        "expected a higher --top-k, or to leave it out",
    )


def _search(options: argparse.Namespace) -> dict[str, Any]:
    """Returns beam and length penalty: given ones, else those of the bundle's scores. Raises BundleError."""
    from captionbeam.capmodel.bundles.contents import read_manifest

    own: dict[str, Any] = {"beam": 3, "length_penalty": 0.0}
    if options.bundle and options.method == "beam" and None in (options.beam, options.length_penalty):
        scored = read_manifest(options.bundle).writing
        own |= scored if scored.get("method") == "beam" else {}
    beam, penalty = options.beam or own["beam"], options.length_penalty
    if penalty is None:
        penalty = own["length_penalty"] if beam > options.beam_groups else 0.0
    return {"beam": beam, "length_penalty": penalty}
