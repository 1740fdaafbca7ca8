"""Bundles: a trained captioner in one folder."""
