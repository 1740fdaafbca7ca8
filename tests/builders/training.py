"""Tiny token tables and feature stores to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from capmodel.tokenizers import Tokenizer, WordTokenizer
from schemas import files
from schemas.fingerprint import sha256_bytes
from schemas.tokens import RECORD, TABLE, TOKENIZER, TokenTable, table_bytes

Captions = Mapping[str, tuple[str, Sequence[str]]]


def make_tokens(url: str, captions: Captions, max_length: int = 20) -> TokenTable:
    """A token table of ``{image id: (split, captions)}``, its words learned from all of them."""
    texts = [text for _, several in captions.values() for text in several]
    tokenizer = WordTokenizer.learn(Counter(text_words(texts)), min_count=1, max_length=max_length)
    data = table_bytes([_row(name, *captions[name], tokenizer) for name in captions], tokenizer.fingerprint)
    tokenizer.save(files.join(url, TOKENIZER))
    files.write_atomic(files.join(url, TABLE), data)
    record = {"sha256": sha256_bytes(data), "tokenizer": {"fingerprint": tokenizer.fingerprint}}
    files.write_atomic(files.join(url, RECORD), files.json_bytes(record))
    return TokenTable.open(url)


def text_words(texts: Sequence[str]) -> list[str]:
    """The words of all texts."""
    return [word for text in texts for word in text.lower().split()]


def _row(name: str, split: str, texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, object]:
    tokens = [tokenizer.encode(text) for text in texts]
    return {"image_id": name, "file_name": name, "coco_id": None, "split": split} | {
        "captions": list(texts),
        "tokens": tokens,
    }


def numbered_captions(train: int, val: int, each: int = 2) -> dict[str, tuple[str, list[str]]]:
    """``train`` + ``val`` images named by number, val ones among the others, ``each`` captions each."""
    every = max(1, (train + val) // val) if val else 0
    held = {number * every for number in range(val)}
    return {
        f"{number:04d}.jpg": ("val" if number in held else "train", _texts(number, each))
        for number in range(train + val)
    }


def _texts(number: int, each: int) -> list[str]:
    return [f"picture {number} seen {time} times" for time in range(each)]
