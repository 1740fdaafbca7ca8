"""The model: encoders, decoders, tokenizers, generation, training and metrics. Does not import Beam."""
