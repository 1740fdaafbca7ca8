"""The captioner of a job: a captionbeam bundle, a model of Hugging Face transformers, or one behind an endpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.templates import columns_of_prompts
from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.decoding import DecodingOptions, chat_decoding, decode_options
from captionbeam.jobs.options.prompts import (
    OPENAI,
    VLLM,
    EndpointOptions,
    check_endpoint,
    has_prompts,
    is_endpoint,
    note_prompts,
    plan_endpoint,
    prompts_by_column,
    texts_by_column,
)
from captionbeam.jobs.options.run import ModelOptions
from captionbeam.jobs.options.scorers import ScoredPlan, ScorerOptions, resolve
from captionbeam.jobs.options.sources import SourceOptions, listing, parsed_sources
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError, not_installed
from captionbeam.schemas.options import PRECISION, option, text

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.sources.spec import SourceSpec
    from captionbeam.pipelines.workers.batches import Processor
    from captionbeam.pipelines.workers.processors import ModelPlan

HUGGING_FACE = "hf:"
FIRST_PATIENCE = 10.0  # seconds for which printing waits for a server that cannot be reached
SCHEMES = (OPENAI, VLLM, HUGGING_FACE)


@dataclass(frozen=True, kw_only=True)
class CaptionerOptions(ScorerOptions, DecodingOptions, EndpointOptions, SourceOptions, ModelOptions):
    """The captioner, what it captions, and how."""

    GROUP = "captioner"

    bundle: str | None = option(
        None,
        "the trained captioner: a folder or URL",
        text("BUNDLE"),
        common=True,
        role="rows",
        location=True,
        instead_of=("captioner",),
        opens=inputs.bundle,
    )
    captioner: str | None = option(
        None,
        "instead of --bundle: openai:URL, a server with OpenAI's API (vLLM, SGLang, a hosted one), whose model answers "
        "--prompt; vllm:MODEL, such a server on each worker machine; or hf:PATH, an image-to-text model of Hugging "
        "Face transformers (BLIP, GIT, ...; with --prompt LLaVA, Qwen2-VL, SmolVLM, ...): a folder of save_pretrained, "
        "or a name on the hub, optionally with @REVISION (extra: huggingface)",
        text(
            "openai:URL|vllm:MODEL|hf:PATH",
            "openai: and a URL, vllm: and a model, or hf: and a folder or a model's name on the hub",
            lambda value: any(value.startswith(scheme) and value != scheme for scheme in SCHEMES),
        ),
        common=True,
        role="rows",
        location=True,
        instead_of=("bundle",),
    )
    precision: str | None = option(
        None,
        "fp32, bf16 or auto (default: as the bundle's features; fp32 with --captioner)",
        PRECISION,
        common=True,
    )

    @property
    def folder(self) -> str:
        """The folder or the hub's name of --captioner hf:."""
        return str(self.captioner).removeprefix(HUGGING_FACE)

    @property
    def asks_here(self) -> bool:
        """Whether a model of transformers answers prompts."""
        return self.captioner is not None and not is_endpoint(self.captioner) and has_prompts(self)

    @property
    def by_url(self) -> bool:
        """Whether the endpoint's server reads the images itself."""
        return is_endpoint(self.captioner) and self.send_urls

    def check_captioner(self) -> None:
        """Raises RequestError unless exactly one captioner is given, with images or features that it can read."""
        if bool(self.bundle) == bool(self.captioner):
            raise RequestError("captions need one of --bundle and --captioner; expected exactly one")
        if bool(self.sources) == bool(self.features):
            raise RequestError("captions need one of SOURCE and --features; expected exactly one")
        if self.captioner and self.features:
            raise RequestError("--captioner reads images, not --features; expected SOURCE")
        self.check_scorer()
        if self.scorer and (self.features or self.by_url):
            given = "--features" if self.features else "--send-urls"
            raise RequestError(f"scores need the images, which {given} does not read; expected SOURCE alone")
        check_endpoint(self)
        texts_by_column(self)
        if is_endpoint(self.captioner):
            return
        if self.captioner and importlib.util.find_spec("transformers") is None:
            raise RequestError(f"--captioner hf: {not_installed('transformers', 'huggingface')}")
        if self.captioner and self.schema and importlib.util.find_spec("xgrammar") is None:
            raise RequestError(f"--schema with --captioner hf: {not_installed('xgrammar', 'xgrammar')}")
        if self.beam is not None or self.method != "beam" or self.captioner:
            # otherwise the bundle says how many beams there are
            chat_decoding(self) if self.asks_here else decode_options(self, None)


def captioning(options: CaptionerOptions, output: str, sources: Sequence[SourceSpec] | None = None) -> Work:
    """Returns the captioning work of the options. Raises RequestError, StoreError, BundleError.

    ``sources``: ``prompted_sources``, where they are parsed.
    """
    from captionbeam.jobs.bulk.launch import Work

    options.check_captioner()
    features = Store.open(options.features) if options.features else None
    asked = plan_endpoint(options) if is_endpoint(options.captioner) else None
    if sources is None:
        sources = prompted_sources(options, output)
    found = listing(options, sources, features)
    plan: Any = asked or _plan(options, features)
    if options.scorer:
        scorer = resolve(options.scorer, bool(options.rerank))
        plan = ScoredPlan(plan, scorer, options.batch_size, options.device)
    if options.by_url:
        from captionbeam.pipelines.endpoints.links import fetch_links

        found["fetch"] = fetch_links
    return Work(
        kind="captions", spec=plan.spec, fingerprint=plan.fingerprint, field=plan.field, job=plan.job, **found
    )


def prompted_sources(options: CaptionerOptions, output: str | None) -> Sequence[SourceSpec]:
    """Returns the parsed SOURCEs with the columns that prompts use; none with --features.

    Says what prompts may not mean. Raises RequestError. This needs neither Beam nor torch.
    """
    if options.features:
        return []
    prompts = prompts_by_column(options)
    sources = parsed_sources(options, output, columns_of_prompts({"prompts": prompts}))
    note_prompts(options, prompts, dict.fromkeys(name for source in sources for name in source.header))
    return sources


def captioner_now(options: CaptionerOptions, batch_size: int) -> Processor:
    """Returns the captioner in this process, loaded from its original location. Raises BundleError, RequestError."""
    captioner = _captioner_now(options, batch_size)
    if options.scorer is None:
        return captioner
    from captionbeam.capmodel.captioners.huggingface.scorer import Scorer
    from captionbeam.pipelines.workers.batches import ReadsColumns
    from captionbeam.pipelines.workers.scoring_shards import ScoringProcessor

    scorer = Scorer.load(resolve(options.scorer).folder, batch_size, options.device)
    used = captioner.columns if isinstance(captioner, ReadsColumns) else ()
    return ScoringProcessor(scorer, lambda: captioner, captioner.schema, tuple(used), bool(options.rerank))


def _captioner_now(options: CaptionerOptions, batch_size: int) -> Processor:
    if is_endpoint(options.captioner):
        from captionbeam.pipelines.endpoints.processor import EndpointCaptioner

        asked = plan_endpoint(options)
        return EndpointCaptioner(asked.options, asked.endpoint, FIRST_PATIENCE)
    if options.asks_here:
        return _chat_now(options, batch_size)
    decode = decode_options(options, options.bundle)
    if not options.captioner:
        from captionbeam.capmodel.captioners.captioner import Captioner

        return Captioner.load(
            str(options.bundle),
            decode,
            batch_size=batch_size,
            precision=options.precision,
            device=options.device,
        )
    from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner, resolve_captioner

    plan = resolve_captioner(options.folder, decode, options.precision, options.device)
    return HuggingFaceCaptioner.load(plan.folder, decode, plan.spec, batch_size, options.device)


def _chat_now(options: CaptionerOptions, batch_size: int) -> Processor:
    from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner
    from captionbeam.capmodel.captioners.huggingface.chat_plan import resolve_chat
    from captionbeam.pipelines.workers.processors import columns_of, parsers_of

    plan = resolve_chat(options.folder, **_asking(options))
    asked = columns_of(plan.spec), parsers_of(plan.spec)
    return ChatCaptioner.load(plan.folder, plan.spec, *asked, batch_size, options.device)


def _asking(options: CaptionerOptions) -> dict[str, Any]:
    """Returns what a model of transformers is asked, and how."""
    return {
        "prompts": prompts_by_column(options),
        "decode": chat_decoding(options),
        "system": options.system,
        "max_new_tokens": options.max_new_tokens,
        "max_image_pixels": options.max_image_pixels,
        "precision": options.precision,
        "device": options.device,
    }


def _plan(options: CaptionerOptions, features: Store | None) -> ModelPlan:
    from captionbeam.pipelines.workers.processors import plan_captioner, plan_chat, plan_transformers

    if options.asks_here:
        return plan_chat(options.folder, batch_size=options.batch_size, **_asking(options))

    decode = decode_options(options, options.bundle)
    how: dict[str, Any] = {
        "precision": options.precision,
        "batch_size": options.batch_size,
        "device": options.device,
    }
    if options.captioner:
        return plan_transformers(options.folder, decode, **how)
    return plan_captioner(str(options.bundle), decode, features=features, **how)
