"""Encode images to features (grids, pooled vectors or logits) in a store of Parquet or HDF5."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.encoders.names import encoder_choices
from captionbeam.jobs.options.features import (
    add_feature_options,
    add_features_source,
    check_features_source,
    keep_components,
    reducing,
    settled,
)
from captionbeam.jobs.options.shared import add_run_options, require, side
from captionbeam.jobs.options.sources import add_source_options, check_seed, listing, parsed_sources
from captionbeam.jobs.run_on.options import add_launch_options

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work

HELP = """\
  captionbeam encode photos.zip --output features --encoder efficientnet_lite0
  captionbeam encode --features features --output small --reduce components.safetensors

Encodes the images of every SOURCE and publishes them as the store's next snapshot. What the store has already is
not done again, so the same command goes on where a killed one was, and adds what is new. A SOURCE is a folder, a
glob, a zip (read in place), a tar, Parquet with images in it, a list of URIs (.txt .csv .jsonl .parquet) or a COCO
annotation file with --image-root; on a local disk, gs://, s3:// or http(s)://. Flags that are not below go to
Beam's PipelineOptions (--runner, ...).
"""
BEAM = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam encode``."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where the images are")
    add_features_source(parser)
    parser.add_argument(
        "--output", required=True, metavar="STORE", help="the store: a folder, new or with earlier snapshots"
    )
    parser.add_argument(
        "--format",
        default="parquet",
        metavar="NAME",
        help="of a new store's shards: parquet or hdf5 (default parquet)",
    )
    group = parser.add_argument_group("encoder")
    add_encoder_options(group)
    group.add_argument(
        "--precision",
        default="auto",
        metavar="NAME",
        help="auto, fp32 or bf16; auto is bf16 where this machine computes in it (default auto)",
    )
    add_source_options(parser)
    add_run_options(parser)
    add_launch_options(parser)


def add_encoder_options(group: Any) -> None:
    """Adds the options of the encoder and of stored features."""
    add_network_options(group)
    add_feature_options(group)


def add_network_options(group: Any) -> None:
    """Adds the options of the network, its weights and its preprocessing."""
    group.add_argument("--encoder", metavar="NAME", help=encoder_choices())
    group.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="a torchvision name (IMAGENET1K_V1), TIMM for timm's own, or a .safetensors or .pth file or URL, "
        "with #sha256=HEX after it if it is to be checked (default: the encoder's own)",
    )
    output = group.add_mutually_exclusive_group()
    output.add_argument(
        "--pooled",
        action="store_true",
        help="one vector an image instead of a grid: what the network's own classifier reads, which is the grid's "
        "mean in most, and the class token of a vit",
    )
    output.add_argument(
        "--logits",
        action="store_true",
        help="what the network's own classifier says of the image instead of a grid (of ImageNet's weights: 1,000 "
        "numbers, before the softmax); no encoder without one has them",
    )
    group.add_argument(
        "--layers",
        type=lambda names: [name.strip() for name in names.split(",")],
        default=[],
        metavar="NAME,...",
        help="keep the grids of these layers, modules of the network by name, side by side, finer ones averaged down "
        "to the coarsest: Mixed_6e,Mixed_7b,Mixed_7c of inception_v3, layer3,layer4 of a resnet (default: the last)",
    )
    group.add_argument(
        "--preprocess",
        metavar="NAME",
        help="scaling as the weights were trained with: torch, tf, caffe, lite or clip, or mean and standard "
        "deviation of colours from 0 to 1 as R,G,B/R,G,B (default: the encoder's)",
    )
    group.add_argument(
        "--crop",
        metavar="NAME",
        help="resize-crop (torchvision), square-crop, before resizing, or squash-crop, of a picture squashed to a "
        "square (default: the encoder's)",
    )
    group.add_argument(
        "--image-size",
        type=side,
        metavar="PIXELS",
        help="side of the square that the network sees (default: the encoder's)",
    )
    group.add_argument(
        "--resize",
        type=side,
        metavar="PIXELS",
        help="shorter side from which that square is cut (default: as much of the picture as the encoder sees)",
    )
    group.add_argument("--interpolation", metavar="NAME", help="bilinear or bicubic (default: the encoder's)")
    group.add_argument("--channels", metavar="ORDER", help="rgb or bgr (default: as --preprocess has it)")
    group.add_argument(
        "--exclude-pool-padding",
        action="store_true",
        help="let inception_v3's average pools leave padding out, as weights that come from TensorFlow want it",
    )
    _add_dedup(group)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Settles sources and encoder, runs the pipeline, and reports. Returns the exit status."""
    from captionbeam.jobs.bulk.launch import gates_of, launch
    from captionbeam.jobs.run_on.target import settle_job

    check_sources(options)
    check_seed(options)
    target = settle_job(options, beam_args)
    return launch(encoding(options), options.output, options, target, gates_of(options), options.format)


def _add_dedup(group: Any) -> None:
    group.add_argument(
        "--dedup-content",
        action="store_true",
        help="read all that is to be done once more, first, so that images with the same bytes are computed once "
        "wherever they lie (without it: where the listing tells, and they are neighbours)",
    )


def check_sources(options: argparse.Namespace) -> None:
    """Raises RequestError unless either images and an encoder, or features, are given."""
    if options.features:
        check_features_source(options, add_network_options)
        return
    require(bool(options.sources), "no source is named; expected one SOURCE or more, or --features")
    require(options.encoder is not None, "no encoder is named; expected --encoder NAME, or --features")


def encoding(options: argparse.Namespace) -> Work:
    """Returns the work of encoding or reducing. Raises RequestError."""
    if options.features:
        return reducing(options)
    from captionbeam.capmodel.encoders.encoder import resolve_encoder, store_weights
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import EncoderJob

    sources = parsed_sources(options)
    spec, state = resolve_encoder(
        options.encoder,
        options.weights,
        preprocess=options.preprocess,
        output="pooled" if options.pooled else "logits" if options.logits else "grid",
        precision=options.precision,
        image_size=options.image_size,
        crop=options.crop,
        pool_padding=not options.exclude_pool_padding,
        device=options.device,
        resize=options.resize,
        interpolation=options.interpolation,
        channels=options.channels,
        layers=options.layers,
    )
    plan = settled(options, spec.to_dict(), spec.output, spec.shape)

    def job(models_url: str) -> EncoderJob:
        return EncoderJob(
            spec=plan.spec,
            weights=store_weights(state, models_url),
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
        dedup=options.dedup_content,
        **listing(options, sources),
    )
