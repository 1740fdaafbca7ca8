"""The model: images, encoders, tokenizers, decoders, generation, metrics, training. Never imports Beam."""
