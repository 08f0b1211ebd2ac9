"""What a stage and an evaluation cost, in seconds, learnt from those that ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

_FEW = 2
"""An influence with fewer timings is judged by all influences together."""


class CostModel:
    """Seconds of a stage: a fixed part and a part per token of its dose, both by influence.

    An influence stands for method and adapter; the device is the study's. Without timings a token costs one unit and
    an evaluation as much as a tenth of the mean dose.
    """

    def __init__(self) -> None:
        """Start without timings."""
        self._timings: dict[str, list[tuple[float, float]]] = {}
        self._n_evaluations, self._evaluation_seconds = 0, 0.0
        self._n_doses, self._dose_tokens = 0, 0.0
        self._lines: dict[str | None, tuple[float, float]] = {}

    def add_stage(self, influence: str, dose_tokens: float, seconds: float | None) -> None:
        """Take the seconds of a stage that was trained; None if they were not measured."""
        self._n_doses += 1
        self._dose_tokens += dose_tokens
        if seconds is not None and seconds > 0:
            self._timings.setdefault(influence, []).append((dose_tokens, seconds))
            self._lines.clear()

    def add_evaluation(self, seconds: float | None) -> None:
        """Take the seconds of an evaluation."""
        if seconds is not None and seconds > 0:
            self._n_evaluations += 1
            self._evaluation_seconds += seconds

    def stage(self, influence: str, dose_tokens: float) -> float:
        """Return the seconds that a stage is expected to take."""
        key = influence if len(self._timings.get(influence, ())) >= _FEW else None
        if key not in self._lines:
            every = [timing for timings in self._timings.values() for timing in timings]
            self._lines[key] = _line(self._timings[key] if key is not None else every)
        fixed, per_token = self._lines[key]
        return fixed + per_token * dose_tokens

    def evaluation(self) -> float:
        """Return the seconds that an evaluation is expected to take."""
        if self._n_evaluations:
            return self._evaluation_seconds / self._n_evaluations
        if self._timings or not self._n_doses:
            return 0.0
        return 0.1 * self._dose_tokens / self._n_doses


def _line(timings: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return fixed seconds and seconds per token, neither negative, with the least relative errors."""
    if not timings:
        return 0.0, 1.0
    doses, seconds = np.array(timings, dtype=np.float64).T
    if len(set(doses.tolist())) == 1:
        return 0.0, float(seconds.mean() / doses[0])
    found, _ = nnls(np.column_stack([1.0 / seconds, doses / seconds]), np.ones(len(seconds)))
    return float(found[0]), float(found[1])
