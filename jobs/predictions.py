"""Show the predicted next words against the true ones, for one image, as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.ui.terminal import say, visible
from captionbeam.schemas import Store
from captionbeam.schemas.errors import ImageError, RequestError
from captionbeam.schemas.options import DEVICE, POSITIVE, PRECISION, STORE, option, text

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.captioner import Captioner
    from captionbeam.capmodel.generation.predictions import Prediction


@dataclass(frozen=True, kw_only=True)
class Predictions(Command):
    """Shows the words that a captioner predicts at each step of a given caption."""

    HELP = """\
  captionbeam predictions 1000268201_693b08cb0e.jpg --bundle bundle --features features --tokens tokens
  captionbeam predictions photo.jpg --bundle bundle --caption "a dog runs on grass" --top 10 --json

Gives the captioner a true caption word by word (teacher forcing) and shows for each position the true word, its
probability and rank, and the most likely words with their probabilities. The captions are those of --caption, or all
that a token table has of the image.
"""
    name = "predictions"

    image: str = option(..., "an image; with --features, the id of an image", text("IMAGE"), positional=True)
    bundle: str = option(..., "the trained captioner", text("BUNDLE"), opens=inputs.bundle)
    features: str | None = option(None, "a features store that has the image", STORE)
    tokens: str | None = option(None, "a token table that has captions of the image", text("TOKENS"))
    caption: tuple[str, ...] = option((), "a true caption; repeatable", text("TEXT"), repeated=True)
    top: int = option(5, "number of predicted words that are shown", POSITIVE)
    json: bool = option(False, "print one JSON object instead of tables")
    precision: str | None = option(
        None,
        "precision of encoder and decoder: fp32, bf16 or auto (default: that of the bundle's features)",
        PRECISION,
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N", DEVICE)

    def execute(self) -> Result:
        """Reads the image and its captions, runs the model, and prints the predictions, which are the totals."""
        require(
            bool(self.tokens) != bool(self.caption),
            "the true captions come from one of --tokens and --caption; expected exactly one",
        )
        image_id, item = _features_of(self) if self.features else _picture(self.image)
        captions = self.caption or _captions(str(self.tokens), image_id)
        captioner = _captioner(self)
        try:
            found = captioner.predictions(captioner.prepare(item), image_id, captions, self.top)
        except ImageError as err:
            raise RequestError(f"{image_id}: {err}; expected an image that can be captioned") from err
        totals = record(self.bundle, image_id, captions, found)
        if self.json:
            say(json.dumps(totals))
        else:
            for caption, steps in zip(captions, found, strict=True):
                print_steps(caption, steps)
        return Result(totals=totals)


def _captioner(options: Predictions) -> Captioner:
    from captionbeam.capmodel.captioners.captioner import Captioner, resolve_captioner
    from captionbeam.capmodel.generation.options import DecodeOptions

    # decoding options are only validated, since no caption is generated
    greedy = DecodeOptions(method="greedy")
    if options.features:
        features = Store.open(options.features)
        resolve_captioner(options.bundle, greedy, features, options.precision, options.device)
    return Captioner.load(
        options.bundle, greedy, bool(options.features), 1, options.precision, options.device
    )


def _features_of(options: Predictions) -> tuple[str, Any]:
    """Returns the image's id in the store, and its features. Raises RequestError."""
    from captionbeam.schemas.match_ids import match_images

    store = Store.open(str(options.features))
    require(store.kind == "features", f"{store.url} is a store of {store.kind}; expected one of features")
    found = match_images([options.image], store.ids()).get(options.image)
    if found is None:
        raise RequestError(f"no image {options.image!r} in {store.url}; expected the id of one")
    (batch,) = store.scan([store.column], ids=[found])
    return found, batch.column(store.column).to_numpy_ndarray()[0]


def _picture(url: str) -> tuple[str, bytes]:
    """Returns the id and the bytes of the single image at ``url``. Raises RequestError, SourceError."""
    from captionbeam.pipelines.sources.images import fetch
    from captionbeam.pipelines.sources.listing import list_images
    from captionbeam.pipelines.sources.parse import parse_sources
    from captionbeam.schemas.records import ImageRef

    refs = [ref for spec in parse_sources([url]) for ref in list_images(spec) if isinstance(ref, ImageRef)]
    require(len(refs) == 1, f"{url!r} holds {len(refs):,} images; expected one")
    (item,) = fetch(refs)
    if isinstance(item, ImageError):
        raise RequestError(f"{url!r} cannot be read ({item}); expected an image")
    return refs[0].image_id, item


def _captions(url: str, image_id: str) -> list[str]:
    """Returns an image's captions in the token table at ``url``. Raises RequestError, StoreError."""
    from captionbeam.schemas.formats.tokens import TokenTable
    from captionbeam.schemas.match_ids import match_images

    table = TokenTable.open(url)
    row = table.rows.get(match_images([image_id], table.rows).get(image_id, ""))
    if row is None or not (captions := table.table["captions"][row].as_py()):
        raise RequestError(f"no captions of image {image_id!r} in {url!r}; expected a token table with some")
    return captions


def record(
    bundle: str, image_id: str, captions: Sequence[str], found: Sequence[Sequence[Prediction]]
) -> dict[str, Any]:
    """Returns the output of ``--json``."""
    return {
        "image_id": image_id,
        "bundle": bundle,
        "captions": [
            {"caption": caption, "logprob": logprob(steps), "steps": [_step(step) for step in steps]}
            for caption, steps in zip(captions, found, strict=True)
        ],
    }


def _step(step: Prediction) -> dict[str, Any]:
    top = [{"token": token, "probability": chance} for token, chance in step.top]
    return {"token": step.token, "probability": step.probability, "rank": step.rank, "top": top}


def logprob(steps: Sequence[Prediction]) -> float:
    """Returns the natural log-probability of the whole caption, including END."""
    return sum(math.log(max(step.probability, 1e-45)) for step in steps)


def print_steps(caption: str, steps: Sequence[Prediction]) -> None:
    """Prints one caption's table on standard output."""
    from rich.table import Table

    from captionbeam.capmodel.tokenizers import SPECIALS, UNK
    from captionbeam.jobs.ui.summary import console

    unknown = SPECIALS[UNK]
    first = sum(step.rank == 1 for step in steps)
    score = f"{first} of {len(steps)} tokens predicted, log-probability {logprob(steps):.2f}"
    say(f"{visible(caption)}  ({score})")
    table = Table()
    for name in ("true", "chance", "rank"):
        table.add_column(name, justify="left" if name == "true" else "right", no_wrap=True)
    table.add_column("predicted", overflow="fold")
    for step in steps:
        words = "  ".join(f"{token} {chance:.1%}" for token, chance in step.top)
        table.add_row(visible(step.token), f"{step.probability:.1%}", f"{step.rank:,}", visible(words))
    console(width=110).print(table)
    if any(step.token == unknown for step in steps):
        say(f"{unknown} stands for words that are not in the model's vocabulary")
