"""What study.yaml says about running a study: when trials stop, where stages are kept."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, field_validator

from evaluators.redaction import literal_secret
from spaces.spec import Spec


class StoppingSpec(Spec):
    """Stopping trials at stage boundaries, and at rungs, that can neither reach the front nor keep the constraints."""

    enabled: bool = True
    """False runs every recipe to its end. Baselines always run to their end."""
    alpha: float = Field(default=0.05, gt=0, le=0.5)
    """Error rate: the share of bounds that recipes may end above. Per bound: a trial of n stages has up to n - 1, and
    more with rungs."""
    hang_seconds: float | None = Field(default=3600.0, gt=0)
    """A trial in which nothing is done for so long, no optimizer step, token or evaluator, is ended and fails; null
    waits for ever. Raise it where an evaluator of yours computes for longer on its own."""
    audit_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the trials to be stopped that run on all the same, so that the errors can be counted."""
    rungs: tuple[float, ...] = ()
    """Shares of a stage's dose, increasing, in (0, 1), such as `[0.25, 0.5]`: there too the model is scored and the
    trial may stop. Each costs one more run of the suite in every stage that is trained, which pays where the suite
    takes less than about a tenth of a stage. Default: boundaries alone."""

    @property
    def used_rungs(self) -> tuple[float, ...]:
        """Shares at which stages stand still: none without early stopping."""
        return self.rungs if self.enabled else ()

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        is_sorted = all(low < high for low, high in pairwise(rungs))
        if not is_sorted or not all(0 < share < 1 for share in rungs):
            shares = ", ".join(f"{share:g}" for share in rungs)
            raise ValueError(
                f"[{shares}] are not increasing shares between 0 and 1; give such as [0.25, 0.5]"
            )
        return rungs


class StoreSpec(Spec):
    """Where results of stages are kept, so that recipes with a common prefix train it once."""

    enabled: bool = True
    """False trains every stage of every trial."""
    path: str | None = None
    """Local folder (relative to the study file) or fsspec url, to share between studies; `${NAME}` in it is that
    environment variable. Default: in the results."""
    max_gigabytes: float = Field(default=20.0, gt=0)
    """Beyond this, what is cheapest to train again and least used is removed; what the front needs stays."""
    checkpoint_seconds: float = Field(default=600.0, gt=0)
    """A stage that trains for longer is kept in its middle this often, and goes on from there after a crash."""

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str | None) -> str | None:
        return without_secret(path)


def without_secret(url: str | None) -> str | None:
    """Return a url that a study may keep.

    Raises:
        ValueError: It holds a secret that should be an environment variable.
    """
    problem = None if url is None else literal_secret(url)
    if problem is not None:
        raise ValueError(problem)
    return url
