"""Train a captioner (a bundle) on features and tokens, with torchrun, here or on a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Self

from captionbeam.capmodel.training.config import TrainingOptions
from captionbeam.jobs.options.command import Command, Result
from captionbeam.jobs.options.shared import require
from captionbeam.jobs.presets import known, preset_values
from captionbeam.jobs.submit import find_target
from captionbeam.jobs.submit.nodes import find_node
from captionbeam.jobs.submit.target_options import TargetOptions
from captionbeam.jobs.submit.training_target import run_name
from captionbeam.jobs.ui.terminal import say
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import POSITIVE, STORE, URL, changed, like, option, options_of, text
from captionbeam.schemas.storage import files

INSIDE_TORCHRUN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, kw_only=True)
class EmbeddingWidth:
    """The width of word embeddings, which a file of word vectors may decide."""

    GROUP = "decoder"

    embed_dim: int | None = like(
        TrainingOptions,
        "embed_dim",
        default=None,
        help="channels of a word embedding, and of all layers of a transformer (default 256, or those of --embeddings)",
    )


@dataclass(frozen=True, kw_only=True)
class Train(TargetOptions, EmbeddingWidth, TrainingOptions, Command):
    """Trains a decoder and saves its best epoch as a bundle.

    The values of a preset or recipe hold where an option is at its default; in ``Train.from_preset``, where it is not
    given. ``with_preset`` says that they are applied. The result's totals are those of the best epoch.
    """

    HELP = """\
  captionbeam train --features features --tokens tokens --output bundle --epochs 8 --workers 2

Trains a decoder (--architecture; by default the attentive LSTM) on the newest snapshot of a features store and
on a token table, in --workers processes that torchrun starts on this machine, and saves the epoch with the best
CIDEr on the val split as a bundle. Stopped at any moment, by SIGTERM, Ctrl-C or kill -9, the same command resumes
from the last checkpoint and gives the same result. Other examples (docs/training.md; --dry-run shows what is sent):

  captionbeam train ... --preset soft-attention         # a classic; --recipe: a whole tuned training
  captionbeam train ... --on slurm --nodes 2 --gpus 8 --partition gpu --max-hours 12
  captionbeam train ... --on kubernetes --nodes 2 --gpus 8 --image IMAGE --volume CLAIM:/data
  captionbeam train ... --on vertex --region us-central1 --machine-type g2-standard-12 --accelerator NVIDIA_L4 \\
      --image IMAGE
  captionbeam train ... --nodes 2 --workers 8 --rendezvous HOST:29500     # the same on both machines
"""
    GROUP = ""
    name = "train"

    features: str = option(..., "the features store that encode wrote", STORE, common=True)
    snapshot: int | None = option(None, "snapshot of the features store (default: the newest)", POSITIVE)
    tokens: str = option(..., "the token table that tokenize wrote", text("TOKENS"), common=True)
    output: str = option(..., "folder of the trained captioner", text("BUNDLE"), common=True)
    checkpoints: str | None = option(
        None, "where a stopped run resumes from (default: BUNDLE-checkpoints)", URL, common=True
    )
    logs: str | None = option(
        None, "TensorBoard's folder, local (default: CHECKPOINTS/logs)", text("DIR"), common=True
    )
    preset: str | None = option(
        None,
        f"a classic decoder: {', '.join(known('preset'))}; options given beside it override the preset's",
        common=True,
    )
    recipe: str | None = option(
        None, f"a complete training, tuned on a data set: {', '.join(known('recipe'))}", common=True
    )

    with_preset: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.preset or self.recipe) and not self.with_preset:
            given = {"preset": self.preset, "recipe": self.recipe, **changed(self)}
            for name, value in preset_values(type(self), given).items():
                object.__setattr__(self, name, value)
        Command.__post_init__(self)  # the rules between options are those of TrainOptions, once all are known

    @classmethod
    def from_command_line(cls, values: dict[str, Any]) -> Self:
        """Returns the command with the ``values`` and, where they have none, those of their preset or recipe."""
        return cls(**preset_values(cls, values), with_preset=True)

    @classmethod
    def from_preset(cls, preset: str | None = None, recipe: str | None = None, **values: Any) -> Self:
        """Returns the command with ``values`` and, where they have none, those of the preset or recipe."""
        return cls.from_command_line({"preset": preset, "recipe": recipe, **values})

    def execute(self) -> Result:
        """Validates the request, trains and reports. The status is 0 also if the bundle exists, and 1 if stopped."""
        try:
            done = self._train_here() if self.on == "local" else self._submit()
        except RequestError as err:
            if type(err) is not RequestError or not (chosen := self.preset or self.recipe):
                raise
            raise RequestError(f"{err} (with --{'preset' if self.preset else 'recipe'} {chosen})") from err
        return Result(done.status, done.totals or self._best(), files.absolute(self.output))

    def _best(self) -> dict[str, Any]:
        """Returns the bundle's best epoch with its scores; empty if there is no bundle yet."""
        from captionbeam.capmodel.bundles.contents import HISTORY
        from captionbeam.capmodel.training.epoch_history import best_epoch

        url = files.join(files.absolute(self.output), HISTORY)
        history = files.read_json(url) if files.exists(url) else []
        return dict(best_epoch(history)) if history else {}

    def chosen(self) -> dict[str, Any]:
        """Returns the values for ``resolve_options``: the training options, and the locations as given."""
        names = [field.name for field, _ in options_of(TrainingOptions)]
        places = ("features", "snapshot", "tokens", "output", "checkpoints", "logs")
        return {name: getattr(self, name) for name in (*names, *places)}

    def _train_here(self) -> Result:
        from captionbeam.capmodel.training.request import WRITTEN, resolve_options
        from captionbeam.jobs.submit.torchrun import describe, train_here
        from captionbeam.jobs.ui.training_view import TrainingView

        node = find_node(self.nodes, self.rendezvous, run_name(files.absolute(self.output)))
        workers = self._own_workers()
        chosen, anything_to_do = resolve_options(
            self.chosen(), workers * node.nodes, () if self.dry_run else WRITTEN
        )
        if not anything_to_do:
            say(nothing_to_do(chosen.output))
            return Result()
        if self.dry_run:
            text = describe(chosen, workers, node)
            say(text)
            return Result(totals={"request": text})
        with TrainingView(chosen) as view:
            if INSIDE_TORCHRUN in os.environ:
                from captionbeam.capmodel.training.worker import StopRequest, train

                train(chosen, StopRequest().handle_signals(), view.show)
            else:
                train_here(chosen, workers, node, view.show)
        return Result(view.finish())

    def _submit(self) -> Result:
        from captionbeam.jobs.submit.submit import submit

        return submit(find_target(self.on), self)

    def _own_workers(self) -> int:
        """Returns the number of processes. Raises RequestError if an outer torchrun has another number."""
        if INSIDE_TORCHRUN not in os.environ:
            return self.workers or self.gpus or 1
        world = int(os.environ["WORLD_SIZE"])
        require(
            self.workers in (None, world),
            f"--workers is {self.workers} inside a torchrun of {world} processes; expected {world}, or nothing",
        )
        return world


def nothing_to_do(output: str) -> str:
    """Returns the message if the bundle already exists."""
    return f"nothing to do: {output} holds the finished bundle (--restart trains anew)"
