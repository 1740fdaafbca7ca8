"""Training: configuration, the loop, optimizer, objectives, evaluation, checkpoints."""
