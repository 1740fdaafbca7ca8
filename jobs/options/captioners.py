"""The captioner of a job: a captionbeam bundle, or a model of Hugging Face transformers."""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import require
from captionbeam.jobs.options.sources import listing, parsed_sources
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError, not_installed

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.batches import Processor

SCHEME = "hf:"


def add_captioner_options(parser: argparse.ArgumentParser) -> None:
    """Adds --bundle and --captioner."""
    parser.add_argument("--bundle", metavar="BUNDLE", help="the trained captioner")
    parser.add_argument(
        "--captioner",
        metavar="hf:PATH",
        help="instead of --bundle: an image-to-text model of Hugging Face transformers (BLIP, GIT, ...), its folder as "
        "save_pretrained wrote it, or its name on the hub, with @REVISION or without (extra: huggingface)",
    )


def check_captioner(options: argparse.Namespace) -> None:
    """Raises RequestError unless exactly one captioner is given."""
    require(
        bool(options.bundle) != bool(options.captioner),
        "captions need one of --bundle and --captioner; expected exactly one",
    )
    if not options.captioner:
        return
    path = options.captioner.removeprefix(SCHEME)
    require(
        path not in ("", options.captioner),
        f"--captioner is {options.captioner!r}; expected hf: and a folder, or a model's name on the hub",
    )
    require(
        not options.features,
        "--features would do nothing with --captioner, which looks at images; expected SOURCE",
    )
    require_transformers()


def require_transformers() -> None:
    """Raises RequestError if transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise RequestError(f"--captioner hf: {not_installed('transformers', 'huggingface')}")


def captioning(options: argparse.Namespace, decode: Any) -> Work:
    """Returns the captioning work of the options. Raises RequestError."""
    check_captioner(options)
    return _by_transformers(options, decode) if options.captioner else _by_bundle(options, decode)


def captioner_now(options: argparse.Namespace, decode: Any, batch_size: int) -> Processor:
    """Returns the captioner in this process, loaded from its original location. Raises BundleError, RequestError."""
    check_captioner(options)
    if not options.captioner:
        from captionbeam.capmodel.captioners.captioner import Captioner

        return Captioner.load(
            options.bundle, decode, batch_size=batch_size, precision=options.precision, device=options.device
        )
    from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner, resolve_captioner

    plan = resolve_captioner(
        options.captioner.removeprefix(SCHEME), decode, options.precision, options.device
    )
    return HuggingFaceCaptioner.load(plan.folder, decode, plan.spec, batch_size, options.device)


def _by_bundle(options: argparse.Namespace, decode: Any) -> Work:
    from captionbeam.capmodel.captioners.captioner import resolve_captioner
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import CaptionerJob

    features = Store.open(options.features) if options.features else None
    found = listing(options, () if features else parsed_sources(options), features)
    plan = resolve_captioner(options.bundle, decode, features, options.precision, options.device)

    def job(models_url: str) -> CaptionerJob:
        return CaptionerJob(
            bundle=plan.store_bundle(models_url),
            decode=decode,
            from_features=features is not None,
            precision=plan.precision,
            batch_size=options.batch_size,
            device=options.device,
        )

    return Work(
        kind="captions",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=job,
        **found,
    )


def _by_transformers(options: argparse.Namespace, decode: Any) -> Work:
    from captionbeam.capmodel.captioners.huggingface.captioner import resolve_captioner
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import TransformersJob

    found = listing(options, parsed_sources(options), None)
    plan = resolve_captioner(
        options.captioner.removeprefix(SCHEME), decode, options.precision, options.device
    )

    def job(models_url: str) -> TransformersJob:
        return TransformersJob(
            folder=plan.folder.store(models_url),
            spec=dict(plan.spec),
            batch_size=options.batch_size,
            device=options.device,
        )

    return Work(
        kind="captions",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=job,
        **found,
    )
