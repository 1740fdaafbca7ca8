"""Training objectives: a batch's training targets and their loss, as a sum over words."""

__all__ = ["losses", "objective"]
