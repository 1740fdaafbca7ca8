"""Loads weights of transformers models, and checks that they match the configuration."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from captionbeam.schemas.errors import RequestError

LOCAL = {"local_files_only": True, "trust_remote_code": False}
LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    AttributeError,
    TypeError,
    RuntimeError,
    SafetensorError,
)  # raised by transformers for invalid folders
LONGEST_REASON = 200  # characters
# not needed for captions, and missing in TrOCR's weights
UNUSED = re.compile(r"^encoder\.pooler\.|(^|\.)position_ids$")

warnings.filterwarnings("ignore", module=r"transformers\.")  # such as of a maximum length that it chooses
disable_progress_bar()  # the progress bar of loading would clutter worker logs
if "TRANSFORMERS_VERBOSITY" not in os.environ:
    set_verbosity_error()  # its warnings are for those who write the call, such as of flags that greedy search ignores


def load_model(
    path: str, name: str, dtype: torch.dtype | str, kind: Any = AutoModelForImageTextToText
) -> Any:
    """Loads the model in the folder ``path`` on the CPU, as an Auto class's ``kind``; ``name`` is used in errors.

    Raises RequestError for weights that cannot be read or do not match the configuration: transformers would initialise
    missing ones at random. Tied weights may be missing.
    """
    before = get_verbosity()
    set_verbosity_error()  # suppresses its report of mismatches, which are raised below
    try:
        loaded: Any = kind.from_pretrained(
            path,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **LOCAL,
        )
    except LOAD_ERRORS as err:
        raise RequestError(
            f"the weights of {name!r} cannot be loaded ({reason(err)}); expected those that save_pretrained wrote"
        ) from err
    finally:
        set_verbosity(before)
    model, found = loaded
    wrong = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if odd := sorted(key for key in wrong if not UNUSED.search(key)):
        raise RequestError(
            f"the weights of {name!r} do not fit its config.json: {len(odd)} of the model's tensors are missing or "
            f"have another shape ({', '.join(odd[:3])}); expected the weights of this very model"
        )
    return model


def reason(err: Exception) -> str:
    """Returns the first line of an error's message, its start if it is long."""
    line = (str(err).strip() or type(err).__name__).splitlines()[0]
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."
