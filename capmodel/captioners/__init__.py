"""Captioners: what captions images on a worker."""
