"""Self-critical sequence training: a captioner is trained on the CIDEr-D of captions sampled from itself.

Rennie et al. 2017 (https://arxiv.org/abs/1612.00563); with the mean of an image's other samples as baseline,
Luo 2020 (https://arxiv.org/abs/2003.09971).
"""

__all__ = ["objective", "options", "sampling"]
