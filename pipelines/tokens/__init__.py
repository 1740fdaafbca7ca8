"""Captions to a tokenizer and a token table."""
