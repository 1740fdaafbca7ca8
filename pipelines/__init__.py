"""Beam: find images, plan shards, encode, tokenize, caption, publish."""
