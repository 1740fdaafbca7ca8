"""Captions to a tokenizer and a token table with Beam: count words, learn a tokenizer, encode captions.

    captions  = p        | ListFiles | ReadCaptions      # in parallel by file
    counts    = captions | SplitWords | CountWords       # training captions only
    tokenizer = counts   | LearnTokenizer                # on one worker, seconds
    rows      = captions | GroupByImage | EncodeImages   # the tokenizer is a side input
    rows                 | PublishTokens                 # one small file, its record last

The same request gives the same table, byte for byte, on every runner.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, PBegin, PCollection
from apache_beam.transforms import combiners

from captionbeam.capmodel.tokenizers import Tokenizer, learn_tokenizer, splitter
from captionbeam.pipelines.runners.runner import run_pipeline
from captionbeam.pipelines.tokens.inputs import InputFile, split_captions
from captionbeam.pipelines.tokens.publish import check_output, make_record, publish
from captionbeam.pipelines.tokens.tokenize_options import DEFAULTS, TokenizeOptions
from captionbeam.pipelines.workers import progress_counter
from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.formats.tokens import TokenTable
from captionbeam.schemas.storage import files

# split, order of the file, row in it, the file's own id, file name, caption: plain types with a compact
# encoding
Caption = tuple[str, int, int, str, str, str]
Keyed = tuple[str, Caption]


def tokenize(
    url: str,
    inputs: Sequence[InputFile],
    options: TokenizeOptions,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
    run_id: str = "tokenize",
) -> TokenTable | None:
    """Creates the token table at ``url``. Returns None if it already exists. Raises RequestError, SystemicError.

    ``run_id`` is the key for ``counts_so_far``.
    """
    build = tokenizing(url, inputs, options, overwrite, run_id)
    if build is None:
        return None
    files.check_writable(files.absolute(url))
    run_pipeline(beam_args, build)
    return TokenTable.open(files.absolute(url))


def tokenizing(
    url: str, inputs: Sequence[InputFile], options: TokenizeOptions, overwrite: bool, run_id: str
) -> Callable[[beam.Pipeline], PCollection[None]] | None:
    """Returns a function that builds the pipeline; None if the token table already exists. Raises RequestError."""
    url = files.absolute(url)
    spec = {"options": options.spec(), "captions": [source.to_dict() for source in inputs]}
    if not check_output(url, spec, DEFAULTS, overwrite):
        return None
    return lambda pipeline: pipeline | "Tokenize" >> TokenizeCaptions(url, inputs, options, spec, run_id)


def counts_so_far(run_id: str) -> tuple[int, int]:
    """Returns the numbers of captions encoded and captions read by workers in this process."""
    return progress_counter.count(f"{run_id} encoded"), progress_counter.count(f"{run_id} read")


class TokenizeCaptions(beam.PTransform[PBegin, PCollection[None]]):
    """Reads ``inputs`` and publishes the token table at ``url``."""

    def __init__(
        self,
        url: str,
        inputs: Sequence[InputFile],
        options: TokenizeOptions,
        spec: Mapping[str, Any],
        run_id: str = "tokenize",
    ) -> None:
        super().__init__()
        self._url, self._inputs, self._options, self._spec = url, list(inputs), options, dict(spec)
        self._run_id = run_id

    def expand(self, start: PBegin) -> PCollection[None]:
        captions = (
            start
            | "ListFiles" >> beam.Create(self._inputs)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadCaptions"
            >> beam.FlatMap(across_workers(read_keyed), self._run_id).with_output_types(Keyed)
            | "SpreadCaptions" >> beam.Reshuffle()
        )
        tokenizer = AsSingleton(captions | "Learn" >> _LearnTokenizer(self._options))
        rows = (
            captions
            | "GroupByImage" >> beam.GroupByKey()
            | "EncodeImages" >> beam.Map(across_workers(encode_image), tokenizer, self._run_id)
        )
        return (
            start
            | "TakeOutput" >> beam.Create([self._url])
            | "PublishTokens" >> beam.Map(across_workers(publish_rows), self._spec, AsIter(rows), tokenizer)
        )


class _LearnTokenizer(beam.PTransform[PCollection[Keyed], PCollection[Tokenizer]]):
    """Learns one tokenizer from the captions of the training split."""

    def __init__(self, options: TokenizeOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, captions: PCollection[Keyed]) -> PCollection[Tokenizer]:
        counts = (
            captions
            | "SplitWords" >> beam.FlatMap(train_words, splitter(self._options.kind)).with_output_types(str)
            | "CountWords" >> combiners.Count.PerElement()
        )
        return (
            captions.pipeline
            | "TakeOptions" >> beam.Create([self._options])
            | "LearnTokenizer" >> beam.Map(across_workers(learn), AsDict(counts))
        )


def read_keyed(source: InputFile, run_id: str) -> Iterator[Keyed]:
    """Yields the captions of one file by image, including those of other splits. Raises RequestError."""
    for split, order, row, record in split_captions(source):
        progress_counter.add(f"{run_id} read", 1)
        yield record.key, (split, order, row, record.image_id, record.file_name, record.caption)


def train_words(keyed: Keyed, split_words: Callable[[str], list[str]]) -> list[str]:
    """Returns the words of a training caption; none for other captions."""
    split, *_, caption = keyed[1]
    return split_words(caption) if split == "train" else []


def learn(options: TokenizeOptions, counts: Mapping[str, int]) -> Tokenizer:
    """Returns the tokenizer of these word counts. Raises RequestError if there are none."""
    if not counts:
        raise RequestError("no word was found in the captions named for learning; expected some with --train")
    return learn_tokenizer(word_counts=counts, **options.learning())


def encode_image(
    image: tuple[str, Iterable[Caption]], tokenizer: Tokenizer, run_id: str = "tokenize"
) -> dict[str, Any]:
    """Returns one row of the token table, with the numbers of captions that were cut or left out.

    Captions of other splits and captions without a word are left out. Raises RequestError for an image in two splits.
    """
    key, captions = image
    everything = sorted(captions)
    progress_counter.add(f"{run_id} encoded", len(everything))
    wanted = [caption for caption in everything if caption[0]]
    splits = {split for split, *_ in wanted}
    if len(splits) > 1:
        raise RequestError(f"image {key!r} is in {' and '.join(sorted(splits))}; expected it in one split")
    whole = [(text, tokenizer.encode_whole(text)) for *_, text in wanted]
    kept = [(text, ids) for text, ids in whole if len(ids) > 2]
    _, _, _, coco_id, file_name, _ = everything[0]
    return {
        "image_id": key,
        "file_name": file_name or None,
        "coco_id": coco_id or None,
        "split": "".join(splits),
        "captions": [text for text, _ in kept],
        "tokens": [tokenizer.cut(ids) for _, ids in kept],
        "cut": sum(len(ids) > tokenizer.max_length for _, ids in kept),
        "wordless": len(whole) - len(kept),
        "other": len(everything) - len(wanted),
    }


def publish_rows(
    url: str, spec: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer
) -> None:
    """Publishes the table of all ``rows`` that have a caption. Raises SystemicError."""
    everything = list(rows)
    kept = [row for row in everything if row["tokens"]]
    left_out = {
        "captions_of_other_splits": sum(row["other"] for row in everything),
        "captions_without_a_word": sum(row["wordless"] for row in everything),
    }
    about = {"fingerprint": tokenizer.fingerprint, **tokenizer.header()}
    publish(url, kept, tokenizer.to_files(), make_record(spec, about, kept, left_out))
