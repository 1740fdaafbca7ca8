"""Options of prompted captions: the model behind an endpoint, its prompts, limits and price."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from captionbeam.capmodel.templates import columns_in, unfilled
from captionbeam.jobs.ui.terminal import note
from captionbeam.schemas.errors import RequestError, flag
from captionbeam.schemas.fingerprint import UNNAMED
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.options import (
    MONEY,
    NAME,
    POSITIVE,
    SECONDS,
    Kind,
    number,
    option,
    text,
)
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.jobs.options.captioners import CaptionerOptions
    from captionbeam.pipelines.endpoints.plan import Endpoint, EndpointPlan

R = TypeVar("R", bound="PromptOptions")
SHOWN = 60  # characters of a part of a prompt
OPENAI, VLLM = "openai:", "vllm:"
VLLM_COMMAND = "vllm serve {model} --served-model-name {name} --host 127.0.0.1 --port {port}"
RATE = number(0, above=True, expected="a number above 0")
TAKEN = {*arrow.IDENTITY_NAMES, "row", "failed", "code", "content", "replaces"}


def _read_prompt(given: str) -> tuple[str | None, str]:
    """Returns the name and the text of a ``[NAME=]FILE``. Raises RequestError."""
    name, url = named_text(given)
    try:
        return name, files.read_bytes(url).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise RequestError(f"--prompt-file {url!r} cannot be read ({err}); expected a text file") from err


def _read_schema(given: str) -> tuple[str | None, dict[str, Any]]:
    """Returns the name and the JSON Schema of a ``[NAME=]FILE``. Raises RequestError."""
    from captionbeam.pipelines.endpoints.json_schema import load_schema

    name, url = named_text(given)
    return name, load_schema(url)


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What a model is asked about each image."""

    GROUP = "prompts"

    prompt: tuple[str, ...] = option(
        (),
        "what to ask the model of --captioner openai:, vllm: or hf:; {COLUMN} stands for the image's value in a column "
        "of the SOURCE; NAME=TEXT, repeated, asks several prompts, each with a column NAME of its own",
        text("[NAME=]TEXT"),
        repeated=True,
        common=True,
        role="rows",
        instead_of=("prompt_file",),
    )
    prompt_file: tuple[str, ...] = option(
        (),
        "like --prompt, with the text in a file",
        text("[NAME=]FILE"),
        repeated=True,
        role="rows",
        location=True,
        instead_of=("prompt",),
        opens=_read_prompt,
    )
    system: str = option("", "the system message", text("TEXT"), role="rows")
    schema: tuple[str, ...] = option(
        (),
        "ask for JSON by the JSON Schema in this file, for all prompts or for the prompt NAME; the values become typed "
        "columns (with hf: extra xgrammar)",
        text("[NAME=]FILE"),
        repeated=True,
        common=True,
        role="rows",
        location=True,
        opens=_read_schema,
    )
    max_new_tokens: int | None = option(
        None,
        "longest answer in tokens (default: the server's; 512 with hf:); a longer one becomes a failure with the code "
        "cut_off",
        POSITIVE,
        common=True,
        role="rows",
    )
    max_image_pixels: int = option(
        1_048_576, "larger pictures are scaled down to this before the model gets them", POSITIVE, role="rows"
    )
    send_urls: bool = option(
        False, "send the images' own http(s) URLs, which the server must be able to read", role="rows"
    )


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """How the endpoint is asked, which changes no answer."""

    GROUP = "endpoint"

    concurrency: int = option(32, "requests in flight of each worker process", POSITIVE, common=True)
    requests_per_minute: float | None = option(
        None, "most requests per minute of the whole run", RATE, common=True
    )
    tokens_per_minute: float | None = option(
        None, "most tokens per minute of the whole run", RATE, common=True
    )
    request_timeout: float = option(120.0, "a request without an answer is repeated after this", SECONDS)
    server_command: str | None = option(
        None,
        "of --captioner vllm:MODEL: the command that starts a worker machine's server, with {port}, {model} (MODEL) "
        "and {name} (--model) "
        f"(default: {VLLM_COMMAND})",
        text("COMMAND", "a command with {port}", lambda value: "{port}" in value),
    )
    server_timeout: float = option(
        900.0, "longest start of such a server, in which it loads the model", SECONDS
    )
    price_per_million_tokens: tuple[float, ...] = option(
        (),
        "price of a million tokens that are sent, and of a million that are generated; the summary then shows the cost",
        Kind(float, MONEY.holds, "two amounts of 0 or more, IN,OUT", "IN,OUT"),
        split=True,
    )


@dataclass(frozen=True, kw_only=True)
class EndpointOptions(PromptOptions, RequestOptions):
    """The model behind an endpoint, its prompts, and how it is asked."""

    GROUP = "endpoint"

    model: str | None = option(
        None,
        "the model's name at the endpoint (default with vllm:MODEL: MODEL)",
        NAME,
        common=True,
        role="rows",
    )


def is_endpoint(captioner: str | None) -> bool:
    """Whether a value of --captioner names an endpoint or a server on each worker machine."""
    return captioner is not None and captioner.startswith((OPENAI, VLLM))


def note_endpoint_options(options: CaptionerOptions) -> None:
    """Says which options of endpoints are given and have no effect, where the captioner is another one."""
    defaults = {one.name: one.default for one in fields(RequestOptions)} | {"send_urls": False}
    given = [f"--{flag(name)}" for name, default in defaults.items() if getattr(options, name) != default]
    if given:
        note(f"{', '.join(given)}: without effect; only openai: and vllm: have requests", to_error=True)


def _address_of(captioner: str) -> tuple[bool, str]:
    """Returns whether a server is started on each worker machine, and the model (vllm:) or the URL (openai:)."""
    own = captioner.startswith(VLLM)
    return own, captioner.removeprefix(VLLM if own else OPENAI)


def has_prompts(options: PromptOptions) -> bool:
    """Whether the captioner is asked prompts."""
    return bool(options.prompt or options.prompt_file)


def plan_endpoint(options: CaptionerOptions) -> EndpointPlan:
    """Returns the plan of the options. Raises RequestError."""
    from captionbeam.capmodel.specs import EndpointSpec
    from captionbeam.pipelines.endpoints.plan import EndpointPlan

    own, address = _address_of(str(options.captioner))
    prompts = prompts_by_column(options)
    spec = EndpointSpec(
        endpoint=options.model or (address if own else ""),
        prompts=prompts,
        system=options.system,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
        n_best=options.n_best,
        max_image_pixels=options.max_image_pixels,
        send_urls=options.send_urls,
    )
    return EndpointPlan(spec, endpoint_of(str(options.captioner), options))


def endpoint_of(captioner: str, options: RequestOptions) -> Endpoint:
    """Returns where and how the model of ``captioner`` (openai:URL or vllm:MODEL) is asked. Raises RequestError."""
    from captionbeam.pipelines.endpoints.plan import Endpoint, checked_url

    own, address = _address_of(captioner)
    return Endpoint(
        url="" if own else checked_url(address),
        command=(options.server_command or VLLM_COMMAND) if own else "",
        model=address if own else "",
        concurrency=options.concurrency,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        timeout=options.request_timeout,
        start_timeout=options.server_timeout,
    )


def check_endpoint(options: CaptionerOptions) -> None:
    """Raises RequestError if the options of an endpoint are incomplete, or if another captioner has them."""
    if not is_endpoint(options.captioner):
        chat = options.captioner is not None
        for name in ("model",) if chat else ("prompt", "prompt_file", "schema", "system", "model"):
            if getattr(options, name):
                flag = "--" + name.replace("_", "-")
                others = "" if name == "model" else ", or hf:PATH with --prompt"
                raise RequestError(
                    f"{flag} is for endpoints; expected --captioner openai:URL or vllm:MODEL{others}"
                )
        for name in ("system", "schema"):
            if getattr(options, name) and not has_prompts(options):
                raise RequestError(
                    f"--{name} goes with prompts; expected --prompt with what to ask about each image"
                )
        note_endpoint_options(options)
        return
    if not options.prompt and not options.prompt_file:
        raise RequestError(
            f"--captioner {options.captioner} needs a --prompt; expected what to ask about each image"
        )
    from captionbeam.pipelines.endpoints.plan import checked_url

    own, address = _address_of(str(options.captioner))
    if not own:
        checked_url(address)
        if not options.model:
            raise RequestError(
                f"--captioner {options.captioner} needs --model; expected the model's name at the endpoint"
            )
    try:
        shlex.split(options.server_command or "")
    except ValueError as err:
        raise RequestError(f"--server-command {options.server_command!r} is no command line: {err}") from err
    prices = options.price_per_million_tokens
    if prices and len(prices) != 2:
        raise RequestError(
            f"--price-per-million-tokens has {len(prices)} amounts; expected two: of tokens sent and generated"
        )


def texts_by_column(options: PromptOptions) -> dict[str, str]:
    """Returns the texts of the prompts by column. Raises RequestError."""
    texts: dict[str, str] = {}
    found = list(_texts(options))
    for name, given in found:
        column = UNNAMED if name is None else name
        if name is None and len(found) > 1:
            raise RequestError(
                f"the prompt {given[:40]!r} has no name; expected NAME=TEXT for each of several prompts"
            )
        if column.casefold() in {other.casefold() for other in texts}:
            raise RequestError(f"two prompts are named {column!r}, in any case; expected a name for each")
        if column.casefold() in TAKEN:
            raise RequestError(
                f"a prompt is named {column!r}, which another column has; expected another name"
            )
        if not given.strip():
            raise RequestError(f"the prompt {column!r} is empty; expected a text")
        texts[column] = given
    return texts


def prompts_by_column(options: PromptOptions) -> dict[str, dict[str, Any]]:
    """Returns the prompts by column, each with its text and, for JSON, its schema. Raises RequestError."""
    prompts: dict[str, dict[str, Any]] = {
        column: {"text": given} for column, given in texts_by_column(options).items()
    }
    for given in options.schema:
        name, schema = _read_schema(given)
        if name is not None and name not in prompts:
            raise RequestError(
                f"--schema names {name!r}, which is no prompt; expected one of {', '.join(prompts)}"
            )
        for column in prompts if name is None else (name,):
            prompts[column]["schema"] = schema
    return prompts


def note_prompts(
    options: PromptOptions, prompts: Mapping[str, Mapping[str, Any]], columns: Collection[str]
) -> None:
    """Says what of the ``prompts`` and the system message is sent as it is although it looks like one of ``columns``,
    those of the sources; and which prompts a schema without a name is for.
    """
    parts = {part: name for own in prompts.values() for part, name in unfilled(own["text"], columns).items()}
    for part, column in parts.items():
        note(f"{part[:SHOWN]} is sent as text; did you mean {{{column}}}?", to_error=True)
    for column in columns_in(options.system):
        if column in columns:
            note(f"{{{column}}} in --system is sent as text; only prompts have columns", to_error=True)
    if len(prompts) > 1 and any(named_text(given)[0] is None for given in options.schema):
        said = "--schema without a name is for all prompts"
        note(f"{said}: {', '.join(prompts)}; --schema NAME=FILE is for one", to_error=True)


def without_prompts(options: R, columns: Collection[str]) -> R:
    """Returns the options without the prompts of ``columns``, whose texts may have been in files."""
    texts = {name: given for name, given in _texts(options) if (name or UNNAMED) not in columns}
    schemas = [given for given in options.schema if named_text(given)[0] in {None, *texts}]
    prompts = [given if name is None else f"{name}={given}" for name, given in texts.items()]
    return replace(options, prompt=tuple(prompts), prompt_file=(), schema=tuple(schemas))


def _texts(options: PromptOptions) -> Iterator[tuple[str | None, str]]:
    for given in options.prompt:
        yield named_text(given)
    yield from map(_read_prompt, options.prompt_file)


def named_text(given: str) -> tuple[str | None, str]:
    """Returns the name and the rest of ``NAME=REST``; no name where the part before ``=`` is no name."""
    name, equals, rest = given.partition("=")
    if equals and name.isidentifier():
        return name, rest
    return None, given
