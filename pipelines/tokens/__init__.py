"""Turns captions into a tokenizer and a token table."""

__all__ = ["caption_files", "inputs", "publish", "tokenize"]
