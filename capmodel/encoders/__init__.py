"""Encoders: images to features. Decoding, preprocessing, weights, backbones, reduction."""
