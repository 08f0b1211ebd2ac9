"""What study.yaml says of tools that are told of trials; `search.runner.trackers` tells them."""

from __future__ import annotations

from pydantic import Field

from spaces.spec import Spec


class CallbackSpec(Spec):
    """Who else is told what trials do."""

    name: str = Field(pattern=r"^(tensorboard|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    """`tensorboard`, or a class of your own as `my_package.mine:Mine`; see search/runner/trackers.py."""
    folder: str | None = None
    """For `tensorboard`: where it writes, relative to the study file. Default: results/<study>/tensorboard."""
    options: dict[str, float | int | str | bool] = Field(default={})
    """Arguments of your own class."""
