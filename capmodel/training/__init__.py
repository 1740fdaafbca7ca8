"""Training: options and their validation, the loop that torchrun's processes run, evaluation and checkpoints."""

__all__ = ["checkpoints", "config", "epoch_history", "optimizer", "progress", "request", "trainer", "worker"]
