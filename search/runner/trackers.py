"""Trackers: what other tools are told of trials, by name in study.yaml. A trial is a run, its boundaries are steps.

callbacks:
  - {name: tensorboard, folder: runs}
  - {name: mlflow, options: {uri: "http://mlflow.example:5000"}}
  - {name: wandb, options: {mode: offline}}
  - {name: "my_package.mine:Mine", options: {channel: search}}

One of the user's own is a class with the methods of `Tracker`; it is made with the study's name, its folder and the
options. A tracker that raises is told no more, and the study goes on without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from evaluators.redaction import expanded, redacted
from search.callback_spec import CallbackSpec
from search.errors import SpecError
from search.messages import one_line
from search.records import TrialRecord

TRACKERS = {
    "tensorboard": "search.runner.trackers:TensorBoard",
    "mlflow": "search.runner.mlflow_tracker:Mlflow",
    "wandb": "search.runner.wandb_tracker:Wandb",
}
"""Name in study.yaml to class."""


class Tracker(Protocol):
    """Is told, in the driver, what trials do. All methods but `__init__` may be called for several trials in turn."""

    def scored(self, record: TrialRecord) -> None:
        """Take note of a boundary: the last one of the record."""

    def ended(self, record: TrialRecord) -> None:
        """Take note of a trial that ended, whatever its state."""

    def close(self) -> None:
        """Let go of all: the launch ends."""


class Trackers:
    """All trackers of a study."""

    def __init__(self, trackers: Sequence[tuple[str, Tracker]], say: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._say = say

    def scored(self, record: TrialRecord) -> None:
        """Tell a boundary."""
        self._tell("scored", record)

    def ended(self, record: TrialRecord) -> None:
        """Tell an end."""
        self._tell("ended", record)

    def close(self) -> None:
        """Tell that the launch ends."""
        self._tell("close")

    def _tell(self, what: str, *arguments: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, what)(*arguments)
            except Exception as error:  # Whatever it is, trials are worth more than their tracking.
                del self._trackers[name]
                fault = one_line(redacted(f"{type(error).__name__}: {error}"))
                self._say(f"callback {name} failed and is told no more: {fault}")


def open_trackers(
    specs: Sequence[CallbackSpec], study: str, folder: Path, root: Path, say: Callable[[str], None]
) -> Trackers:
    """Return the trackers that a study names.

    Args:
        specs: As in study.yaml.
        study: Name of the study.
        folder: Its results.
        root: Where relative paths of the study start.
        say: Is told when one fails.

    Raises:
        SpecError: One cannot be found or made.
    """
    made = []
    for at, spec in enumerate(specs):
        path = TRACKERS.get(spec.name, spec.name)
        module, _, name = path.partition(":")
        try:
            options = {
                key: expanded(value) if isinstance(value, str) else value
                for key, value in spec.options.items()
            }
            if spec.folder is not None:
                options["folder"] = str(root / spec.folder)
            made.append(
                (
                    spec.name,
                    getattr(importlib.import_module(module), name)(study, folder, **options),
                )
            )
        except Exception as error:
            fault = one_line(redacted(f"{type(error).__name__}: {error}"))
            raise SpecError(
                f"callbacks[{at}]: {spec.name} cannot be made ({fault}); mend or remove it"
            ) from error
    return Trackers(made, say)


class TensorBoard:
    """Writes what TensorBoard reads: each trial a run, scores by boundary, params in its HPARAMS tab."""

    def __init__(self, study: str, results: Path, folder: str | None = None) -> None:
        """Write into `folder`/<study>; default: results/<study>/tensorboard."""
        self._place = results / "tensorboard" if folder is None else Path(folder) / study

    def scored(self, record: TrialRecord) -> None:
        """Write nothing yet: a trial's file is written whole, when it has ended."""

    def ended(self, record: TrialRecord) -> None:
        """Write the scores at all boundaries, tokens so far, and the params."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        place = self._place / f"trial-{record.number:04d}"
        with SummaryWriter(str(place)) as writer:
            final = {}
            for boundary in record.boundaries:
                for score in boundary.scores:
                    if score.value is not None:
                        writer.add_scalar(score.name, score.value, boundary.n_stages)
                        final[score.name] = score.value
            writer.add_text("recipe", record.recipe.label())
            writer.add_text("state", f"{record.state}: {record.reason or ''}")
            # Not `add_hparams`: its second writer would open the same file, or make a run of its own.
            for summary in hparams(dict(record.params), final):
                writer.file_writer.add_summary(summary)

    def close(self) -> None:
        """Do nothing: no file is open."""
