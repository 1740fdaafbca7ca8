"""The model: encoders, decoders, tokenizers, generation, training and metrics. Does not import Beam.

Rooms: ``encoders`` (images to features), ``decoders`` and ``generation`` (features to captions), ``captioners`` (both,
on workers), ``bundles`` (a trained captioner's folder), ``tokenizers``, ``metrics``; for training ``data``,
``objectives``, ``self_critical`` and ``training``; ``runtime`` (devices and processes).
"""
