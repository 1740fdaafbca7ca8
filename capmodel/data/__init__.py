"""Training data: joining images with captions, sampling order, and reading features."""
