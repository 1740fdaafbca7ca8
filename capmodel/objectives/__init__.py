"""Training objectives: a batch's training targets and their loss, as a sum over words."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.objectives.losses import masked_cross_entropy, next_word_hits
    from captionbeam.capmodel.objectives.objective import CrossEntropy, Mixed, Objective, TrainingBatch

__all__ = ["CrossEntropy", "Mixed", "Objective", "TrainingBatch", "masked_cross_entropy", "next_word_hits"]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    losses="masked_cross_entropy next_word_hits",
    objective="CrossEntropy Mixed Objective TrainingBatch",
)
