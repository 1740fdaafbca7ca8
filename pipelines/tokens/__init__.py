"""Turns captions into a tokenizer and a token table."""
