"""Options of stored features: reduction to components, float16 or int8. Also converts an existing store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import positive, refuse, refuse_group, require
from captionbeam.jobs.options.sources import add_fetch_options, listing
from captionbeam.schemas import Store
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.feature_plan import FeaturePlan
    from captionbeam.jobs.bulk.launch import Work

LISTED = ("image_root", "id_column", "uri_column", "bytes_column", "inventory")


def add_feature_options(group: Any) -> None:
    """Adds the options of stored features."""
    group.add_argument(
        "--reduce",
        metavar="FILE",
        help="keep components of the features: a file that captionbeam svd fitted to features of this very encoder",
    )
    group.add_argument(
        "--reduce-dim", type=positive, metavar="K", help="the first K of them (default: all in FILE)"
    )
    group.add_argument(
        "--dtype",
        default="float16",
        metavar="NAME",
        help="float16; or int8, with a scale for each image and channel: half the bytes; readers get float16 "
        "(default float16)",
    )


def add_features_source(group: Any) -> None:
    """Adds --features, a store of features instead of images."""
    group.add_argument(
        "--features",
        metavar="STORE",
        help="reduce, or keep as int8, the rows of a features store, instead of encoding SOURCE again",
    )


def settled(options: argparse.Namespace, spec: Any, column: str, shape: tuple[int, ...]) -> FeaturePlan:
    """Returns the plan for stored features of ``spec``. Raises RequestError."""
    from captionbeam.capmodel.encoders.feature_plan import resolve_features

    return resolve_features(spec, column, shape, options.reduce, options.reduce_dim, options.dtype)


def keep_components(plan: FeaturePlan, models_url: str) -> str | None:
    """Copies the components below ``models_url`` under their hash; returns their URL, or None without components."""
    if plan.components is None:
        return None
    return _kept(plan.components, plan.spec["reduction"]["sha256"], models_url)


def _kept(source: str, sha256: str, models_url: str) -> str:
    target = files.join(models_url, f"{sha256}.safetensors")
    models.keep_file(source, target, sha256)
    return target


def check_features_source(options: argparse.Namespace, add_encoder_options: Any) -> None:
    """Raises RequestError for options without effect if features are not encoded again."""
    require(not options.sources, "--features takes the place of SOURCE; expected one of them")
    require(
        options.reduce is not None or options.dtype != "float16",
        "--features would copy a store as it is; expected --reduce, --dtype int8 or both",
    )
    require(
        options.precision in (None, "auto"),
        f"--precision {options.precision} would do nothing with --features; expected to leave it out",
    )
    refuse(options, LISTED, "with --features")
    refuse_group(options, add_fetch_options, "with --features")
    refuse_group(options, add_encoder_options, "with --features")


def reducing(options: argparse.Namespace) -> Work:
    """Returns the work of reducing or converting the rows of ``--features``. Raises RequestError, StoreError."""
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import ReducerJob

    store = Store.open(options.features)
    _check_whole(store)
    plan = settled(options, store.spec, store.column, store.shape)

    def job(models_url: str) -> ReducerJob:
        _keep_weights(store, models_url)
        return ReducerJob(
            spec=plan.spec,
            column=store.column,
            shape=store.shape,
            components=keep_components(plan, models_url),
            batch_size=options.batch_size,
            device=options.device,
        )

    return Work(
        kind="features",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=job,
        **listing(options, (), store),
    )


def _check_whole(store: Store) -> None:
    """Raises RequestError unless the store has an encoder's full float16 features."""
    require(store.kind == "features", f"{store.url} is a store of {store.kind}; expected one of features")
    for name, said in (("reduction", "reduced"), ("dtype", "kept as int8")):
        require(
            name not in store.spec,
            f"the features {store.url} are {said} already; expected the float16 features of an encoder",
        )


def _keep_weights(store: Store, models_url: str) -> None:
    """Copies the encoder's weights, so that bundles trained on the reduced features can include them."""
    sha256 = str(store.spec.get("weights_sha256"))
    source = files.join(store.models_url, f"{sha256}.safetensors")
    if files.exists(source):
        _kept(source, sha256, models_url)
