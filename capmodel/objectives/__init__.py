"""Training objectives: losses as sums, and objectives made of them."""
