"""Training: options, the loop, optimizer, evaluation and checkpoints."""
