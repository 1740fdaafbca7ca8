"""What all tokenizers share: special ids, encoding with a maximum length, decoding, and how they are kept.

A tokenizer is a value: a vocabulary (token id -> token), a maximum length, and, for byte pairs, the merges.
Ids 0 to 3 are PAD, UNK, START and END; a caption's own tokens never map to them, even where a caption spells
``<end>`` out.

A tokenizer's folder holds ``tokenizer.json`` (kind, version, options, special ids, SHA-256 of the others),
``vocab.json`` (the tokens in the order of their ids) and, for byte pairs, subword-nmt's ``codes.bpe``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint, sha256_bytes
from captionbeam.schemas.storage import files

PAD, UNK, START, END = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<start>", "<end>")
FORMAT, VERSION = "captionbeam tokenizer", 1
DEFAULT_MAX_LENGTH = 64


class Tokenizer(ABC):
    """Sentences to ids and back. ``vocab`` holds the tokens in the order of their ids, specials first."""

    pad, unk, start, end = PAD, UNK, START, END
    kind: ClassVar[str]

    def __init__(
        self,
        vocab: Sequence[str],
        max_length: int = DEFAULT_MAX_LENGTH,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.vocab = tuple(vocab)
        self.max_length = check_max_length(max_length)
        self.options = dict(options or {})
        self._ids = {token: i for i, token in enumerate(self.vocab) if i >= len(SPECIALS)}

    @property
    def vocab_size(self) -> int:
        """Number of token ids, specials included."""
        return len(self.vocab)

    @abstractmethod
    def words_of(self, text: str) -> list[str]:
        """The words of ``text`` as this tokenizer sees them: what is counted before learning."""

    @abstractmethod
    def pieces_of(self, words: Sequence[str]) -> Iterable[str]:
        """The vocabulary's pieces of ``words``, in order; one that the vocabulary lacks becomes UNK."""

    @abstractmethod
    def join(self, pieces: Sequence[str]) -> str:
        """The sentence that ``pieces`` spell."""

    def normalise(self, text: str) -> str:
        """What ``decode(encode(text))`` gives where nothing is unknown or cut: words, a space between."""
        return " ".join(self.words_of(text))

    def encode_whole(self, text: str) -> list[int]:
        """START, the ids of ``text``, END; of any length."""
        ids = (self._ids.get(piece, UNK) for piece in self.pieces_of(self.words_of(text)))
        return [START, *ids, END]

    def cut(self, ids: list[int]) -> list[int]:
        """``ids`` with at most ``max_length`` of them, END still the last."""
        return ids if len(ids) <= self.max_length else [*ids[: self.max_length - 1], END]

    def encode(self, text: str) -> list[int]:
        """START, the ids of ``text``, END: at most ``max_length`` ids, END never cut off."""
        return self.cut(self.encode_whole(text))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """One token an id, specials as ``<end>`` and the like. Raises IndexError beyond the vocabulary."""
        return [self.vocab[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence up to the first END; PAD and START are left out, UNK reads ``<unk>``."""
        pieces = []
        for i in map(int, ids):
            if i == END:
                break
            if i not in (PAD, START):
                pieces.append(self.vocab[i])
        return self.join(pieces)

    def contents(self) -> dict[str, bytes]:
        """The folder's files except ``tokenizer.json``: name -> bytes."""
        return {"vocab.json": files.json_bytes(list(self.vocab))}

    def header(self) -> dict[str, Any]:
        """What ``tokenizer.json`` says. The hashes of the other files make it speak for all of them."""
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
        """32 hexadecimal digits that change with anything that changes an encoding."""
        return fingerprint(self.header())

    def to_files(self) -> dict[str, bytes]:
        """The folder's files, ``tokenizer.json`` last: name -> bytes."""
        return {**self.contents(), "tokenizer.json": files.json_bytes(self.header())}

    def save(self, url: str) -> None:
        """Write the folder; its header comes last, so that a half-written one is not taken for whole."""
        for name, data in self.to_files().items():
            files.write_atomic(files.join(url, name), data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, max_length={self.max_length})"


def check_max_length(max_length: int) -> int:
    """``max_length`` if START, one token and END fit. Raises RequestError."""
    if max_length < 3:
        raise RequestError(
            f"a maximum length of {max_length} is too short; expected 3 or more (START, a token, END)"
        )
    return max_length
