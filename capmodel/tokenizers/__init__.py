"""Tokenizers from text to token ids and back: byte pair encoding or words. Does not import torch.

Example::

    counts = Counter(word for caption in captions for word in splitter("bpe")(caption))
    tokenizer = BpeTokenizer.learn(counts, merges=4000)
    tokenizer.save("tokens/tokenizer")
    load_tokenizer("tokens/tokenizer").encode("Two dogs.")
"""

from captionbeam.capmodel.tokenizers.base import END, PAD, SPECIALS, START, UNK, Tokenizer, check_max_length
from captionbeam.capmodel.tokenizers.bpe import BpeTokenizer
from captionbeam.capmodel.tokenizers.folder import KINDS, load_tokenizer, tokenizer_from_files
from captionbeam.capmodel.tokenizers.learn import learn_tokenizer, splitter
from captionbeam.capmodel.tokenizers.words import WordTokenizer

__all__ = [
    "END",
    "KINDS",
    "PAD",
    "SPECIALS",
    "START",
    "UNK",
    "BpeTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "check_max_length",
    "learn_tokenizer",
    "load_tokenizer",
    "splitter",
    "tokenizer_from_files",
]
