"""The scorer of captions: a CLIP or SigLIP model of Hugging Face transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from captionbeam.schemas.errors import RequestError, not_installed
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.options import option, text

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.scorer import ScorerPlan
    from captionbeam.pipelines.workers.batches import WorkerJob
    from captionbeam.pipelines.workers.processors import ScoringJob

HUGGING_FACE = "hf:"
SCORER = text(
    "hf:PATH",
    "hf: and a folder or a model's name on the hub",
    lambda value: value.startswith(HUGGING_FACE) and value != HUGGING_FACE,
)


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """What scores captions against their image."""

    GROUP = "scores"

    score: str | None = option(
        None,
        "give each caption a score against its image by a CLIP or SigLIP model of Hugging Face transformers: a folder "
        "of save_pretrained, or a name on the hub, optionally with @REVISION (extra: huggingface)",
        SCORER,
        role="rows",
        location=True,
        instead_of=("rerank",),
    )
    rerank: str | None = option(
        None,
        "like --score, and order the captions of an image (--n-best) or the answers to a prompt by score, best first",
        SCORER,
        role="rows",
        location=True,
        instead_of=("score",),
    )

    @property
    def scorer(self) -> str | None:
        """The model of --score or --rerank."""
        return self.rerank or self.score

    def check_scorer(self) -> None:
        """Raises RequestError for both options, and without transformers."""
        if self.score and self.rerank:
            raise RequestError("--score and --rerank exclude each other; expected one of them")
        if self.scorer:
            check_installed(f"--{'rerank' if self.rerank else 'score'} {self.scorer}")


def check_installed(given: str) -> None:
    """Raises RequestError if transformers is not installed. ``given``: what needs it."""
    if importlib.util.find_spec("transformers") is None:
        raise RequestError(f"{given}: {not_installed('transformers', 'huggingface')}")


def resolve(given: str, rerank: bool = False) -> ScorerPlan:
    """Returns the scorer of a value of ``SCORER``. Raises RequestError."""
    from captionbeam.capmodel.captioners.huggingface.scorer import resolve_scorer

    return resolve_scorer(given.removeprefix(HUGGING_FACE), rerank)


@dataclass(frozen=True)
class ScoredPlan:
    """The ``captioner``'s plan, and that of what scores its captions: a plan like ``ModelPlan``.

    ``captioner``: with ``spec``, ``field``, ``features`` and ``job``. ``batch_size``, ``device``: of the scorer.
    """

    captioner: Any
    scorer: ScorerPlan
    batch_size: int | None
    device: str
    lazily: bool = False

    @property
    def features(self) -> str | None:
        """As of the captioner's plan."""
        found: str | None = self.captioner.features
        return found

    @property
    def spec(self) -> dict[str, Any]:
        """The store's specification."""
        return with_scorer(self.captioner.spec, spec_of(self.scorer.spec))

    @property
    def fingerprint(self) -> str:
        """The hash of ``spec``."""
        return fingerprint(self.spec)

    @property
    def field(self) -> pa.Field:
        """The first column."""
        return arrow.with_scores(columns_of(self.captioner.spec, self.captioner.field)).field(0)

    def job(self, models_url: str) -> ScoringJob:
        """Copies the models to ``models_url`` and returns the workers' job."""
        folder = self.scorer.folder.store(models_url)
        return scoring_job(
            self.spec, self.captioner.field, self.captioner.job(models_url), folder,
            batch_size=self.batch_size, device=self.device, lazily=self.lazily,
        )  # fmt: skip


def scoring_job(
    spec: Mapping[str, Any], field: pa.Field, captioner: WorkerJob, folder: str, **how: Any
) -> ScoringJob:
    """Returns the job of a store's specification. ``field``: the captioner's own. ``how``: arguments of the job."""
    from captionbeam.capmodel.templates import columns_of_prompts
    from captionbeam.pipelines.workers.processors import ScoringJob

    used, rerank = tuple(columns_of_prompts(spec)), bool(spec["scorer"].get("rerank"))
    columns = columns_of(spec, field)
    return ScoringJob(captioner=captioner, folder=folder, columns=columns, used=used, rerank=rerank, **how)


def columns_of(spec: Mapping[str, Any], field: pa.Field) -> pa.Schema:
    """Returns the columns of captions without scores: one for each prompt of ``spec``, or ``field`` alone."""
    from captionbeam.pipelines.endpoints.prompts import prompts_in

    return pa.schema([prompt.field for prompt in prompts_in(spec)] or [field])


def with_scorer(spec: Mapping[str, Any], scorer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the specification of captions with another scorer, or none."""
    captions = {name: value for name, value in spec.items() if name != "scorer"}
    return captions if scorer is None else {**captions, "scorer": dict(scorer)}
