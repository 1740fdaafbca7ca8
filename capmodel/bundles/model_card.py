"""The README of a bundle: description, scores, usage and origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from captionbeam.capmodel.bundles.contents import ENCODER, Manifest
from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.tokenizers import Tokenizer

CARD = """\
---
library_name: captionbeam
pipeline_tag: image-to-text
tags:
- image-captioning
license: other
---

# Image captioner

Writes English sentences about photographs: encoder {encoder_name}, and {decoder_name}
{shape} features ({parameters:.1f} million parameters of its own). Trained with captionbeam.

## Scores

{scores}

Of the validation split, at the epoch that was kept; CIDEr, BLEU and ROUGE as coco-caption computes them{written}.

## Use

```
captionbeam caption photos/ --bundle {url} --output captions {flags}
captionbeam caption --bundle {url} one.jpg
```

{encoder_note}

```python
from captionbeam.capmodel.bundles import Bundle
from captionbeam.capmodel.generation import DecodeOptions, generate

bundle = Bundle.load("{url}")
found = generate(bundle.decoder, features, DecodeOptions({arguments}), image_ids, bundle.tokenizer)
```

`features` are float tensors `[n, {sizes}]` with the fingerprint below.

## What it came from

| | |
|---|---|
| features | fingerprint `{features}` |
| words | {tokenizer}, {vocabulary} tokens, at most {max_length} a caption with START and END |
| decoder | {settings} |
| trained on | {place} |
| content | SHA-256 `{sha256}` |

Encoder:

```json
{encoder}
```

## To be completed by whoever publishes it

- Licence of these weights: (state it; it depends on the licences of the encoder's weights and of the data)
- Licence and source of the encoder's weights: (state them)
- Images and captions it was trained on, and their terms: (state them)
- Known limits: it says what is common in its captions, also where it is not in the picture; it was not made
  to tell who a person is, and should not be used to.
"""
NAMES = {
    "attentive": "an LSTM that attends to the cells of its",
    "lstm": "an LSTM that is told the image by its",
    "transformer": "a transformer that attends to the cells of its",
}
USUAL_BEAM = 3
"""Of the examples, where scores are not of beam search."""
WITH_ENCODER = "The encoder's weights are in this folder: nothing else is needed."
WITHOUT_ENCODER = "The encoder's weights are not in this folder: it captions a features store (`--features`)."


def model_card(
    manifest: Manifest, config: DecoderConfig, parameters: int, tokenizer: Tokenizer, url: str
) -> str:
    """Returns the model card of a bundle to be saved to ``url``, whose decoder has ``parameters`` parameters."""
    encoder: Mapping[str, Any] = manifest.encoder or {}
    writing = DecodeOptions.from_dict(dict(manifest.writing))
    search = (
        {"beam": writing.beam, "length_penalty": writing.length_penalty} if writing.method == "beam" else {}
    )
    shown = {name: value for name, value in search.items() if value} or {"beam": USUAL_BEAM}
    return CARD.format(
        written=f", of captions by {writing.search}" if manifest.writing else "",
        flags=" ".join(f"--{name.replace('_', '-')} {value}" for name, value in shown.items()),
        arguments=", ".join(f"{name}={value!r}" for name, value in shown.items()),
        url=url,
        decoder_name=NAMES[config.architecture],
        encoder_name=encoder.get("name") or encoder.get("imported") or "(not recorded)",
        shape=" x ".join(map(str, config.feature_shape)),
        sizes=", ".join(map(str, config.feature_shape)),
        parameters=parameters / 1e6,
        scores=_table(manifest.scores),
        encoder_note=WITH_ENCODER if ENCODER in manifest.files else WITHOUT_ENCODER,
        features=manifest.features,
        tokenizer=tokenizer.kind,
        vocabulary=config.vocab_size,
        encoder=json.dumps(encoder, indent=1, sort_keys=True),
        sha256=manifest.sha256,
        max_length=config.max_length,
        settings=_settings(config),
        place=_place(manifest.trained_on),
    )


def _settings(config: DecoderConfig) -> str:
    options = config.decoder().items()
    chosen = {name: value for name, value in options if config.uses(name) and value not in (None, "")}
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def _place(facts: Mapping[str, Any]) -> str:
    """For example ``Slurm, job 12 on birch, workers: 2, on cuda``."""
    if not facts:
        return "(not recorded)"
    job = f", job {facts['job']}" if facts.get("job") else ""
    return f"{facts['platform']}{job}, workers: {facts['workers']}, on {facts['device']}"


def _table(scores: Mapping[str, float]) -> str:
    if not scores:
        return "Not recorded."
    rows = [f"| {name} | {value:.4g} |" for name, value in scores.items()]
    return "\n".join(["| score | value |", "|---|---|", *rows])
