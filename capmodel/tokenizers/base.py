"""The base class of tokenizers: special ids, encoding with a maximum length, decoding and storage.

A tokenizer is an immutable value: a vocabulary (token id -> token), a maximum length and, for byte pairs, the merges.
Ids 0 to 3 are PAD, UNK, START and END; the literal text ``<end>`` in a caption is not encoded as END.

A tokenizer's folder has ``tokenizer.json`` (kind, version, options, special ids, SHA-256 of the others), ``vocab.json``
(the tokens in the order of their ids) and, for byte pairs, subword-nmt's ``codes.bpe``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from captionbeam.schemas.errors import expect
from captionbeam.schemas.fingerprint import fingerprint, sha256_bytes
from captionbeam.schemas.storage import files

PAD, UNK, START, END = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<start>", "<end>")
FORMAT, VERSION = "captionbeam tokenizer", 1
DEFAULT_MAX_LENGTH = 64


class Tokenizer(ABC):
    """Converts sentences to ids and back. ``vocab`` has the tokens in the order of their ids, specials first."""

    pad, unk, start, end = PAD, UNK, START, END
    kind: ClassVar[str]

    def __init__(
        self,
        vocab: Sequence[str],
        max_length: int = DEFAULT_MAX_LENGTH,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.vocab = tuple(vocab)
        self.max_length = max_length
        expect(max_length >= 3, "max_length", max_length, "3 or more (START, a token, END)")
        self.options = dict(options or {})
        self._ids = {token: i for i, token in enumerate(self.vocab) if i >= len(SPECIALS)}

    @property
    def vocab_size(self) -> int:
        """Number of token ids, including specials."""
        return len(self.vocab)

    @abstractmethod
    def words_of(self, text: str) -> list[str]:
        """Splits ``text`` into this tokenizer's words, which are counted for learning."""

    @abstractmethod
    def pieces_of(self, words: Sequence[str]) -> Iterable[str]:
        """Returns the pieces of ``words``, in order; one that is not in the vocabulary becomes UNK."""

    @abstractmethod
    def join(self, pieces: Sequence[str]) -> str:
        """Returns the sentence that ``pieces`` spell."""

    def normalise(self, text: str) -> str:
        """Returns ``decode(encode(text))`` for text without unknown or cut words: words separated by spaces."""
        return " ".join(self.words_of(text))

    def encode_whole(self, text: str) -> list[int]:
        """Returns START, the ids of ``text``, END, without a maximum length."""
        ids = (self._ids.get(piece, UNK) for piece in self.pieces_of(self.words_of(text)))
        return [START, *ids, END]

    def cut(self, ids: list[int]) -> list[int]:
        """Returns ``ids`` cut to ``max_length``, with END as the last."""
        return ids if len(ids) <= self.max_length else [*ids[: self.max_length - 1], END]

    def encode(self, text: str) -> list[int]:
        """Returns START, the ids of ``text``, END: at most ``max_length`` ids, always with END."""
        return self.cut(self.encode_whole(text))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Returns one token per id, with specials as ``<end>`` etc. Raises IndexError beyond the vocabulary."""
        return [self.vocab[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the sentence up to the first END, without PAD and START; UNK becomes ``<unk>``."""
        pieces = []
        for i in map(int, ids):
            if i == END:
                break
            if i not in (PAD, START):
                pieces.append(self.vocab[i])
        return self.join(pieces)

    def contents(self) -> dict[str, bytes]:
        """Returns the folder's files except ``tokenizer.json``: name -> bytes."""
        return {"vocab.json": files.json_bytes(list(self.vocab))}

    def header(self) -> dict[str, Any]:
        """Returns the content of ``tokenizer.json``, with the hashes of the other files."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "max_length": self.max_length,
            "options": self.options,
            "special_ids": {"pad": PAD, "unk": UNK, "start": START, "end": END},
            "vocab_size": self.vocab_size,
            "sha256": {name: sha256_bytes(data) for name, data in self.contents().items()},
        }

    @property
    def fingerprint(self) -> str:
        """A hash of everything that affects an encoding: 32 hexadecimal digits."""
        return fingerprint(self.header())

    def to_files(self) -> dict[str, bytes]:
        """Returns the folder's files, ``tokenizer.json`` last: name -> bytes."""
        return {**self.contents(), "tokenizer.json": files.json_bytes(self.header())}

    def save(self, url: str) -> None:
        """Writes the folder, with its header last, so that an incomplete folder is not readable."""
        for name, data in self.to_files().items():
            files.write_atomic(files.join(url, name), data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, max_length={self.max_length})"
