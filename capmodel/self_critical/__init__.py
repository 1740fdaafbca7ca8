"""Self-critical sequence training: a captioner is trained on the CIDEr-D of captions sampled from itself.

Rennie et al. 2017 (https://arxiv.org/abs/1612.00563); with the mean of an image's other samples as baseline,
Luo 2020 (https://arxiv.org/abs/2003.09971).
"""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.self_critical.objective import SelfCritical
    from captionbeam.capmodel.self_critical.options import SelfCriticalOptions
    from captionbeam.capmodel.self_critical.sampling import draw_captions

__all__ = ["SelfCritical", "SelfCriticalOptions", "draw_captions"]

__getattr__ = lazy_names(
    __name__, objective="SelfCritical", options="SelfCriticalOptions", sampling="draw_captions"
)
