"""What a training step minimises: losses as sums, and objectives made of them."""
