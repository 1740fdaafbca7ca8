"""Options of caption generation: those of DecodeOptions, where the captioner may decide beam and length penalty."""

from __future__ import annotations

from dataclasses import dataclass, fields

from captionbeam.capmodel.generation.options import LEAST_TEMPERATURE, DecodeOptions
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import check_fields, like, number


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(DecodeOptions):
    """How captions are generated. ``decode_options`` checks the combination."""

    GROUP = "caption generation"

    beam: int | None = like(DecodeOptions, "beam", default=None)  # type: ignore[assignment]
    length_penalty: float | None = like(DecodeOptions, "length_penalty", default=None)  # type: ignore[assignment]

    n_best: int = like(
        DecodeOptions,
        "n_best",
        help="captions for each image, best first (at most --beam of beam search; 1 of greedy); of an endpoint, "
        "answers to each prompt",
    )
    seed: int | None = like(  # type: ignore[assignment]
        DecodeOptions,
        "seed",
        default=None,
        help="seed of --sample, --limit and --method sample (default: 0), and of an endpoint's model (default: none)",
    )
    temperature: float | None = like(  # type: ignore[assignment]
        DecodeOptions,
        "temperature",
        default=None,
        kind=number(0, 1 / LEAST_TEMPERATURE, unit="T"),
        help="temperature of --method sample, whose draws depend only on --seed, the image's id and the caption's "
        "number (default 1); of an endpoint's model (default: the server's). With hf: and prompts, a temperature means "
        "--method sample",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        after = getattr(super(DecodeOptions, self), "__post_init__", None)  # the combination is checked later
        if after is not None:
            after()


def decode_options(options: DecodingOptions, bundle: str | None) -> DecodeOptions:
    """Returns the options with beam and length penalty as given, else as ``bundle`` was scored.

    Raises RequestError, BundleError.
    """
    from captionbeam.pipelines.workers import processors

    values = {field.name: getattr(options, field.name) for field in fields(DecodeOptions)}
    given = {name: value for name, value in values.items() if value is not None}
    return processors.decode_options(given, bundle)


def chat_decoding(options: DecodingOptions) -> DecodeOptions:
    """Returns how a chat model's answers are generated: greedily, unless beams or a temperature are given.

    Raises RequestError.
    """
    values = {field.name: getattr(options, field.name) for field in fields(DecodeOptions)}
    given = {name: value for name, value in values.items() if value is not None}
    if options.method == DecodeOptions.method and options.beam is not None and options.temperature:
        raise RequestError(
            f"--temperature {options.temperature:g} with --beam {options.beam}: beam search draws nothing; expected "
            "one of the two"
        )
    if options.method == DecodeOptions.method and options.beam is None:
        given["method"] = "sample" if options.temperature else "greedy"
    if not options.temperature:
        given.pop("temperature", None)
    return DecodeOptions(**given)
