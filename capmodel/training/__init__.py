"""Training: options and their validation, the loop that torchrun's processes run, evaluation and checkpoints."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.training.checkpoints import Checkpoints, Position
    from captionbeam.capmodel.training.config import TrainOptions
    from captionbeam.capmodel.training.epoch_history import best_epoch, early_stops
    from captionbeam.capmodel.training.optimizer import ModelOptimizer, WeightAverage
    from captionbeam.capmodel.training.progress import EventWriter
    from captionbeam.capmodel.training.request import delete_run, resolve_options
    from captionbeam.capmodel.training.trainer import Stopped, Trainer
    from captionbeam.capmodel.training.worker import StopRequest, save_bundle, train

__all__ = [
    "Checkpoints",
    "EventWriter",
    "ModelOptimizer",
    "Position",
    "StopRequest",
    "Stopped",
    "TrainOptions",
    "Trainer",
    "WeightAverage",
    "best_epoch",
    "delete_run",
    "early_stops",
    "resolve_options",
    "save_bundle",
    "train",
]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    checkpoints="Checkpoints Position",
    config="TrainOptions",
    epoch_history="best_epoch early_stops",
    optimizer="ModelOptimizer WeightAverage",
    progress="EventWriter",
    request="delete_run resolve_options",
    trainer="Stopped Trainer",
    worker="StopRequest save_bundle train",
)
