"""The base of all commands: a frozen dataclass of options, with ``run()``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from captionbeam.jobs.options.inputs import check_inputs
from captionbeam.jobs.options.storage import use_storage_options
from captionbeam.schemas.options import Kind, check_fields, option, options_of

if TYPE_CHECKING:
    from captionbeam.schemas import Store

DONE, ERROR, WRONG_REQUEST, WARNED = 0, 1, 2, 3


@dataclass(frozen=True)
class Result:
    """What a command did.

    status: the exit status of the command line: 0 (done), 1 (stopped before the end) or 3 (done with many failures).
    totals: the command's record, as its ``--json`` or its file of totals has it. output: the store or file written.
    """

    status: int = DONE
    totals: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None

    @property
    def store(self) -> Store:
        """The newest snapshot of the store that was written. Raises StoreError."""
        from captionbeam.schemas import Store

        return Store.open(str(self.output))


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of captionbeam: ``captionbeam NAME`` on the command line, ``Class(option=value, ...).run()`` in Python.

    Raises RequestError for an invalid value, before anything is read. Prints nothing when used from Python.
    """

    GROUP = "storage"
    HELP: ClassVar[str] = ""
    name: ClassVar[str] = ""
    takes_pipeline_options: ClassVar[bool] = False

    storage_options: str | Mapping[str, Any] | None = option(
        None,
        'options of fsspec by protocol, such as {"gs": {"requester_pays": "my-project"}}, or a .json file of them. '
        "They are passed to the workers; secrets are not recorded",
        Kind(unit="JSON"),
        secret=True,
    )

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = Command.__repr__  # type: ignore[method-assign]  # else each dataclass gets one of its own

    def __repr__(self) -> str:
        """Returns the class with the values that are not at their defaults, without secrets."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        defaults = {each.name: each.default for each in fields(self)}
        shown = [f"{name}={value!r}" for name, value in values.items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __post_init__(self) -> None:
        if isinstance(self.storage_options, Mapping):
            object.__setattr__(self, "storage_options", json.dumps(self.storage_options))
        check_fields(self)

    @classmethod
    def from_command_line(cls, values: dict[str, Any]) -> Self:
        """Returns the command with the ``values`` that the user named. Presets and recipes override this."""
        return cls(**values)

    def run(self) -> Result:
        """Runs the command. Raises CaptionbeamError, OSError."""
        use_storage_options(None if self.storage_options is None else str(self.storage_options))
        self.begin()
        self.check()
        check_inputs(self)
        return self.execute()

    def begin(self) -> None:
        """Clears what an earlier run left for a reader, before anything can fail."""

    def check(self) -> None:
        """Raises RequestError for options that contradict each other, before anything is read."""

    def execute(self) -> Result:
        """Does the work of ``run``, after the storage options are applied."""
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """Returns all options for the run's record, without secrets."""
        from captionbeam.schemas.storage import options as storage_options

        values = {each.name: getattr(self, each.name) for each, _ in options_of(self)}
        if self.storage_options:
            values["storage_options"] = storage_options.for_record(storage_options.current())
        return {"job": self.name, **values}


@dataclass(frozen=True, kw_only=True)
class PipelineCommand(Command):
    """A command that runs an Apache Beam pipeline.

    pipeline_options: Beam's own flags, such as ``("--runner=FlinkRunner", "--flink_master=host:8081")``.
    """

    takes_pipeline_options: ClassVar[bool] = True
    pipeline_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.pipeline_options
        object.__setattr__(self, "pipeline_options", (given,) if isinstance(given, str) else tuple(given))
        if self.pipeline_options:
            from captionbeam.pipelines.runners.flags import check_beam_args

            check_beam_args(self.pipeline_options)
