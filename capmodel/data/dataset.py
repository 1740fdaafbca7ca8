"""The inputs of a training run: a features snapshot and a token table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from captionbeam.capmodel.data.cache import GridCache
from captionbeam.capmodel.data.loader import CaptionTokens, FeatureReader
from captionbeam.capmodel.data.pairing import Samples, pair
from captionbeam.capmodel.decoders.word_vectors import WordVectors, read_vectors
from captionbeam.capmodel.tokenizers import SPECIALS, Tokenizer, load_tokenizer
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.reading import Store


@dataclass(frozen=True)
class Data:
    """A pinned snapshot, a token table, and the matching rows of both.

    ``cache``: the folder of decoded grids, or None.
    """

    store: Store
    table: TokenTable
    tokenizer: Tokenizer
    samples: Mapping[str, Samples]
    cache: str | None = None

    @classmethod
    def open(cls, options: TrainOptions) -> Data:
        """Opens the data of a run. Raises RequestError, StoreError."""
        store, table = Store.open(options.features, options.snapshot), TokenTable.open(options.tokens)
        samples = pair(store, table, options.max_missing)
        return cls(store, table, load_tokenizer(table.tokenizer_url), samples, options.cache)

    @cached_property
    def train(self) -> FeatureReader:
        """The reader of the training split."""
        return self._reader(self.samples["train"])

    def val(self, images: int) -> FeatureReader:
        """Returns the reader of at most ``images`` images of the val split, always the same ones."""
        return self._reader(self.samples["val"].sample(images, seed=0))

    def _reader(self, samples: Samples) -> FeatureReader:
        return FeatureReader(self.store, CaptionTokens(self.table.table["tokens"]), samples, self._grids)

    @cached_property
    def _grids(self) -> GridCache | None:
        return None if self.cache is None else GridCache(self.cache, self.store, self.samples["train"].groups)

    def encoder_weights(self) -> str | None:
        """Returns the URL of the weights that made the features; None if the store does not have them."""
        return self._model(self.store.spec.get("weights_sha256"))

    def components(self) -> str | None:
        """Returns the URL of the components that reduced the features; None if they are not reduced."""
        return self._model(self.store.spec.get("reduction", {}).get("sha256"))

    def _model(self, sha256: str | None) -> str | None:
        url = files.join(self.store.models_url, f"{sha256}.safetensors")
        return url if sha256 and files.exists(url) else None

    def word_vectors(self, options: TrainOptions) -> WordVectors | None:
        """Returns the initial word vectors, or None if no file was named. Raises RequestError."""
        if options.embeddings is None:
            return None
        words = self.tokenizer.vocab[len(SPECIALS) :]
        return read_vectors(
            options.embeddings, {word: i for i, word in enumerate(words, start=len(SPECIALS))}
        )
