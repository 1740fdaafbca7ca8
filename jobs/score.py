"""``captionbeam score``: gives the captions of a store scores against their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.recorded import absolute_model, repeat_limits
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.jobs.options.scorers import (
    SCORER,
    check_installed,
    columns_of,
    resolve,
    scoring_job,
    with_scorer,
)
from captionbeam.jobs.store_commands.retry import StoredModelOptions, store_work, stored_captioner
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.options import STORE, option

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.batches import WorkerJob


@dataclass(frozen=True, kw_only=True)
class Score(StoredModelOptions, BulkCommand):
    """Scores the captions of a store against their images, and publishes the next snapshot."""

    HELP = """\
  captionbeam score captions --with hf:clip-vit-base-patch32
  captionbeam score captions --with hf:google/siglip-base-patch16-224

Gives each caption of STORE a score against its image, the field score: of CLIP the CLIPScore of Hessel et al. 2021, of
SigLIP the sigmoid of its logit. Captions are copied, and nothing is captioned again; only failed images are tried
again. Sources are not listed. Captions of images that cannot be read any more, or have changed, stay without a score;
score with the same model again tries these again. Later runs, such as a refresh, score what they caption.
Other flags are those of Beam's PipelineOptions.
"""
    name = "score"

    store: str = option(
        ..., "the captions: a folder or URL", STORE, positional=True, common=True, opens=inputs.store
    )
    model: str = option(
        ...,
        "the scorer: a CLIP or SigLIP model of Hugging Face transformers, a folder of save_pretrained or a name on the "
        "hub, optionally with @REVISION (extra: huggingface)",
        SCORER,
        common=True,
        flag="--with",
    )

    def check(self) -> None:
        """Raises RequestError without transformers."""
        check_installed(f"--with {self.model}")

    def execute(self) -> Result:
        """Scores the newest snapshot's captions, and reports."""
        from captionbeam.jobs.bulk.launch import launch
        from captionbeam.jobs.run_on.target import resolve_target
        from captionbeam.jobs.store_commands.shared import whole_store
        from captionbeam.pipelines.bulk.run import SCORE

        store = Store.open(whole_store(self.store))
        check_scorable(store)
        target, options = resolve_target(repeat_limits(self, store.snapshot), "store")
        work, request = _work(store, options), _request(store, options.model)
        return launch(work, store.url, options, target, options.gates(), operation=SCORE, request=request)


def check_scorable(store: Store) -> None:
    """Raises RequestError unless the store has captions of images."""
    if store.kind != "captions":
        raise RequestError(f"{store.url} is a store of {store.kind}; expected one of captions")
    if store.spec.get("bundle") and store.spec.get("encoder") is None:
        raise RequestError(
            f"the captions of {store.url} were made of features, so the images are not at hand; expected captions of "
            "images"
        )
    if store.spec.get("send_urls"):
        raise RequestError(
            f"the captions of {store.url} were made with --send-urls, so the images are not at hand; expected captions "
            "without it"
        )


def _work(store: Store, options: Score) -> Work:
    """Returns the work of scoring all captions of ``store``, with its captioner for images that failed."""
    from captionbeam.pipelines.maintenance.stored_images import StoredImages

    plan = resolve(options.model, reranks(store.spec))
    spec = with_scorer(store.spec, spec_of(plan.spec))
    field, captioner = stored_captioner(store, options)

    def job(models_url: str) -> WorkerJob:
        how = {"batch_size": options.batch_size, "device": options.device, "lazily": True}
        return scoring_job(spec, field, captioner, plan.folder.store(models_url), **how)

    columns = arrow.with_scores(columns_of(spec, field))
    is_same, names = fingerprint(spec) == store.fingerprint, arrow.scored_names(columns)
    again = {*_without_score(store, names)} if is_same else set()
    return store_work(store, spec, columns.field(0), job, StoredImages(store, again), options)


def _without_score(store: Store, columns: Sequence[str]) -> Iterator[str]:
    """Yields the images of ``store`` of which a caption in ``columns`` has no score."""
    for batch in store.scan(["image_id", *columns]):
        for name in columns:
            captions = batch.column(name)
            scores = pc.struct_field(pc.list_flatten(captions), "score")
            places = pc.list_parent_indices(captions).filter(pc.is_null(scores))
            yield from batch.column("image_id").take(places.unique()).to_pylist()


def reranks(spec: Mapping[str, Any]) -> bool:
    """Returns whether captions of a store are ordered by score."""
    return bool(spec.get("scorer", {}).get("rerank"))


def _request(store: Store, model: str) -> dict[str, Any]:
    """Returns the store's record with the scorer, so that a refresh scores too; {} if it has none."""
    request = store.snapshot.request
    if not request:
        return {}
    captioned = {name: value for name, value in request["options"].items() if name not in ("score", "rerank")}
    flag = "rerank" if reranks(store.spec) else "score"
    return {**request, "options": {**captioned, flag: absolute_model(model)}}
