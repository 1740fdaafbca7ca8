"""Options of caption generation: those of DecodeOptions, where the captioner may decide beam and length penalty."""

from __future__ import annotations

from dataclasses import dataclass, replace

from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.schemas.options import check_fields, like, part_of


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(DecodeOptions):
    """How captions are generated. ``decode_options`` checks the combination."""

    GROUP = "caption generation"

    beam: int | None = like(DecodeOptions, "beam", default=None)  # type: ignore[assignment]
    length_penalty: float | None = like(DecodeOptions, "length_penalty", default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        check_fields(self)
        after = getattr(super(DecodeOptions, self), "__post_init__", None)  # the combination is checked later
        if after is not None:
            after()


def decode_options(options: DecodingOptions, bundle: str | None) -> DecodeOptions:
    """Returns the options with beam and length penalty as given, else as ``bundle`` was scored.

    Raises RequestError, BundleError.
    """
    from captionbeam.capmodel.bundles.contents import read_manifest

    own = DecodeOptions()  # whose beam and length penalty hold for greedy search and other models
    if bundle and options.method == "beam" and None in (options.beam, options.length_penalty):
        scored = read_manifest(bundle).writing
        if scored.get("method") == "beam":
            own = DecodeOptions.from_dict(dict(scored))
    beam = options.beam or own.beam
    penalty = options.length_penalty
    if penalty is None:
        penalty = own.length_penalty if beam > options.beam_groups else 0.0
    return part_of(DecodeOptions, replace(options, beam=beam, length_penalty=penalty))
