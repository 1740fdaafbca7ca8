"""Options of fitting components to features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.options import NATURAL, POSITIVE, number, option


@dataclass(frozen=True, kw_only=True)
class SvdOptions:
    """How many components are fitted, and to which images; ``image_ids``: only to these."""

    GROUP = "components"

    components: int = option(
        128, "components to keep; encode --reduce-dim may use fewer, the first ones", POSITIVE
    )
    center: bool = option(
        False, "subtract the mean first (PCA); without it the reduction is one matrix product (SVD)"
    )
    scale: bool = option(
        False,
        "first divide each channel by its root mean square (with --center: its standard deviation), so that all "
        "channels have equal weight: for features of several layers (encode --layers)",
    )
    sample: float = option(
        1.0,
        "use this share of the images, chosen by a hash of their ids; a few thousand images are usually enough",
        number(0, 1, "a share above 0, at most 1", "SHARE", above=True),
    )
    seed: int = option(0, "random seed of --sample", NATURAL)
    image_ids: frozenset[str] | None = None

    def spec(self) -> dict[str, Any]:
        """Returns the options that affect the result, with ids as a hash."""
        values = spec_of(replace(self, image_ids=None))
        ids = {} if self.image_ids is None else {"ids": fingerprint({"ids": sorted(self.image_ids)})}
        return {**values, **ids}
