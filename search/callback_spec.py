"""What study.yaml says of tools that are told of trials; `search.runner.trackers` tells them."""

from __future__ import annotations

from pydantic import Field, field_validator

from search.running_spec import without_secret
from spaces.spec import Spec


class CallbackSpec(Spec):
    """Who else is told what trials do."""

    name: str = Field(pattern=r"^(tensorboard|mlflow|wandb|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    """`tensorboard`, `mlflow`, `wandb`, or a class of your own as `my_package.mine:Mine`, with the methods of `Tracker`
    in search/runner/trackers.py."""
    folder: str | None = None
    """For `tensorboard` and `wandb`: where they write, relative to the study file. Default: results/<study>."""
    options: dict[str, float | int | str | bool] = Field(default={})
    """Arguments: for `mlflow` uri and experiment, for `wandb` project, entity and mode, and those of your own class.
    `${NAME}` in a text is that environment variable, and a password must be one."""

    @field_validator("options")
    @classmethod
    def _check_options(
        cls, options: dict[str, float | int | str | bool]
    ) -> dict[str, float | int | str | bool]:
        for value in options.values():
            without_secret(value if isinstance(value, str) else None)
        return options
