"""Hugging Face transformers: its captioners in bulk jobs, and bundles as its models (extra ``huggingface``)."""
