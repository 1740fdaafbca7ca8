"""Training data: pairs of images and captions, their order, and reading features."""
