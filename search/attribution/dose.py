"""Dose and response: how far a stage moves a score by how many tokens, over all boundaries of a study.

Four shapes are compared by AICc (Hurvich and Tsai 1989): none, a line and a parabola in the logarithm of the dose, and
saturation, a (1 - exp(-dose / tau)). Few parameters and a stated shape allow an answer to "where does it turn" with an
interval; a smooth curve (LOESS, GP) would need more points than a study has, and gives no point of saturation or harm.
The score before the stage and the logarithm of its learning rate enter as straight lines where they vary and points
suffice, since they, and not the dose alone, decide how far a stage moves a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from evaluators.scores import Direction, Record
from search.attribution.known import Known
from search.attribution.noise import ALPHA, holm_corrected, t_quantile, t_tail
from spaces.recipe import Stage

Array = NDArray[np.float64]
Shape = Literal["none", "line", "parabola", "saturating"]

MIN_POINTS = 8
"""Below this a curve is not fitted."""
MIN_SPREAD = 1.5
"""Largest dose over smallest, below which there is nothing to see."""
MIN_GAIN = 2.0
"""AICc by which saturation must beat the plainer shapes to be claimed (Burnham and Anderson 2002: some support)."""
MIN_HARM_GAIN = 6.0
"""AICc by which the parabola must beat all others to count: seen with noise, what saturates looks like a parabola whose
turn lies near the largest doses, and to be told wrongly that more does harm is worse than not to be told."""
_N_TAUS = 60
_N_FREE: dict[Shape, int] = {"none": 1, "line": 2, "parabola": 3, "saturating": 3}
"""Parameters of a shape that move its curve."""

DoseRows = dict[tuple[str, str], Array]
"""Influence and score to rows of dose in tokens, score before, learning rate, change of the score."""


class Interval(Record):
    """A dose in tokens with its 95 % interval."""

    value: float
    """Best estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class DoseResponse(Record):
    """How one influence's dose moves one score."""

    influence: str
    """Name of the influence."""
    score: str
    """Name of the score."""
    n: int
    """Boundaries behind it, each training once: doses that are the same number of steps are one point."""
    lowest: float
    """Smallest dose seen, in tokens."""
    highest: float
    """Largest dose seen."""
    shape: Shape | None
    """Best by AICc, the parabola only if it is far better; None where there are too few points."""
    p: float | None = None
    """That dose plays no part: F test of the parabola against none."""
    holm: float | None = None
    """The same, corrected over all curves of the study."""
    harm_p: float | None = None
    """That the score does not get worse again at the largest doses (Lind and Mehlum 2010, Oxford Bull. Econ. Stat.)."""
    harm_holm: float | None = None
    """The same, corrected over all curves."""
    curve: tuple[tuple[float, float, float, float], ...] = ()
    """Dose, change of the score, and its 95 % band, at the mean of what else varies."""
    saturates_at: Interval | None = None
    """Dose with 95 % of what can be gained; None unless that is supported."""
    turns_at: Interval | None = None
    """Dose beyond which more does harm; None unless that is supported."""
    reason: str | None = None
    """Why nothing was fitted."""
    item_stderr: float | None = None
    """Standard error over items of one score, root mean square; None where a score has none."""
    n_curves: int = 1
    """Curves of the study that are looked at together."""

    @property
    def swing(self) -> float:
        """Largest less smallest change along the curve; 0 without one."""
        means = [mean for _, mean, _, _ in self.curve]
        return max(means, default=0.0) - min(means, default=0.0)

    @property
    def is_shown(self) -> bool:
        """Whether the dose plays a part beyond noise, after correction, and by more than which items there are.

        All trials answer the same items, so what scatters around a curve does not hold their noise: with nothing to
        learn, doses differ on these very items and on no others. Of a difference between two doses that noise is at
        most the one of two scores on items of their own. A curve with as many free parameters as `shape` has can take
        as many values freely, and the swing is the largest of their differences: Bonferroni over pairs and curves.
        """
        if self.holm is None or self.holm >= ALPHA or self.shape is None:
            return False
        n_free = _N_FREE[self.shape]
        n_looks = max(1, math.comb(n_free, 2)) * self.n_curves
        quantile = t_quantile(1 - ALPHA / 2 / n_looks, math.inf)
        return self.swing > quantile * math.sqrt(2) * (self.item_stderr or 0.0)


def dose_responses(
    known: Known, scores: dict[str, Direction], rows: DoseRows | None = None
) -> list[DoseResponse]:
    """Return a curve for each influence and score, with corrections over all of them.

    Args:
        known: Scored recipes.
        scores: Score to direction.
        rows: What `dose_rows` returns for them, if that is known already.
    """
    items = {name: _item_stderr(known, name) for name in scores}
    found = [
        dose_response(influence, name, scores[name], rows_N4).model_copy(
            update={"item_stderr": items[name]}
        )
        for (influence, name), rows_N4 in (rows or dose_rows(known, list(scores))).items()
    ]
    holm = holm_corrected([each.p for each in found])
    harm = holm_corrected([each.harm_p for each in found])
    n_curves = sum(each.p is not None for each in found)
    corrected = [
        each.model_copy(update={"holm": one, "harm_holm": two, "n_curves": n_curves})
        for each, one, two in zip(found, holm, harm, strict=True)
    ]
    return [_supported(each) for each in corrected]


def _item_stderr(known: Known, name: str) -> float | None:
    estimates = [known.estimate(key, name) for key in known.recipes]
    variances = [each.item_variance for each in estimates if each is not None]
    if not variances or any(each is None for each in variances):
        return None
    return math.sqrt(sum(each or 0.0 for each in variances) / len(variances))


def dose_rows(known: Known, scores: Sequence[str]) -> DoseRows:
    """Return what curves are fitted to, by influence and score: see `dose_response`."""
    points = list(_points(known))
    found: DoseRows = {}
    for influence in sorted({stage.influence for _, _, stage in points}):
        own = [point for point in points if point[2].influence == influence]
        for name in scores:
            rows = []
            for parent, key, stage in own:
                before, after = known.estimate(parent, name), known.estimate(key, name)
                if before is not None and after is not None:
                    row = (stage.dose_tokens, before.value, stage.learning_rate)
                    rows.append((*map(float, row), after.value - before.value))
            found[influence, name] = np.array(rows).reshape(-1, 4)
    return found


def dose_response(influence: str, score: str, direction: Direction, rows_N4: Array) -> DoseResponse:
    """Fit one curve.

    Args:
        influence: Name of the influence.
        score: Name of the score.
        direction: Which way is better.
        rows_N4: Dose in tokens, score before, learning rate, change of the score.
    """
    n = len(rows_N4)
    lowest, highest = (float(rows_N4[:, 0].min()), float(rows_N4[:, 0].max())) if n else (0.0, 0.0)

    def unknown(reason: str) -> DoseResponse:
        return DoseResponse(
            influence=influence,
            score=score,
            n=n,
            lowest=lowest,
            highest=highest,
            shape=None,
            reason=reason,
        )

    if n < MIN_POINTS:
        return unknown(f"{n} boundaries; {MIN_POINTS} are needed")
    if highest < MIN_SPREAD * lowest:
        return unknown("the dose hardly varies")
    dose_N, change_N = rows_N4[:, 0], rows_N4[:, 3]
    if np.ptp(change_N) == 0:
        return unknown("the score never changes")
    others_NC = _others(rows_N4)
    fits = {shape: _fit(shape, dose_N, change_N, others_NC) for shape in _N_COLUMNS}
    has_turn = all(
        fits["parabola"].aicc + MIN_HARM_GAIN <= fits[shape].aicc
        for shape in fits
        if shape != "parabola"
    )
    plainer = [shape for shape in fits if shape != "parabola" or has_turn]
    best = min(plainer, key=lambda shape: fits[shape].aicc)
    flat, parabola = fits["none"], fits["parabola"]
    freedom = n - parabola.design_NP.shape[1]
    f_value = max(0.0, (flat.rss - parabola.rss) / 2 / (parabola.rss / freedom))
    sign = 1.0 if direction == "maximise" else -1.0
    harm_p, turn = _turning(parabola, sign, lowest, highest)
    return DoseResponse(
        influence=influence,
        score=score,
        n=n,
        lowest=lowest,
        highest=highest,
        shape=best,
        p=float(special.fdtrc(2, freedom, f_value)),
        harm_p=harm_p,
        curve=_curve(fits[best], lowest, highest),
        saturates_at=_saturation(fits, dose_N, change_N, others_NC, sign)
        if best == "saturating"
        else None,
        turns_at=turn if has_turn else None,
    )


class _Fit:
    """A shape by least squares."""

    def __init__(self, shape: Shape, tau: float | None, design_NP: Array, change_N: Array) -> None:
        self.shape, self.tau, self.design_NP = shape, tau, design_NP
        self.weights_P = np.linalg.lstsq(design_NP, change_N, rcond=None)[0]
        n, p = design_NP.shape
        self.rss = max(float(((change_N - design_NP @ self.weights_P) ** 2).sum()), 1e-18)
        self.freedom = n - p
        # The error's variance and tau are parameters too.
        k = p + 1 + (tau is not None)
        self.aicc = n * math.log(self.rss / n) + 2 * k
        self.aicc += 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf

    @property
    def covariance(self) -> Array:
        """Of the weights, shape (P, P)."""
        inverse = np.linalg.pinv(self.design_NP.T @ self.design_NP)
        return np.asarray(inverse * self.rss / max(self.freedom, 1))


_N_COLUMNS: dict[Shape, int] = {"none": 0, "line": 1, "parabola": 2, "saturating": 1}


def _columns(shape: Shape, dose_N: Array, tau: float | None) -> Array:
    """Return the columns of a shape; the first column of all is the constant."""
    ones = np.ones(len(dose_N))
    log_N = np.log(dose_N)
    if shape == "saturating":
        assert tau is not None
        return np.column_stack([ones, 1 - np.exp(-dose_N / tau)])
    return np.column_stack([ones, log_N, log_N**2])[:, : _N_COLUMNS[shape] + 1]


def _others(rows_N4: Array) -> Array:
    """Return score before and log learning rate, centred, where they vary and points suffice."""
    columns = [rows_N4[:, 1], np.log(rows_N4[:, 2])]
    varying = [column - column.mean() for column in columns if np.ptp(column) > 1e-12]
    # Five points a parameter, the parabola's three among them.
    room = max(0, len(rows_N4) // 5 - 3)
    return np.column_stack([np.empty((len(rows_N4), 0)), *varying[:room]])


def _fit(shape: Shape, dose_N: Array, change_N: Array, others_NC: Array) -> _Fit:
    taus: Sequence[float | None] = _taus(dose_N) if shape == "saturating" else [None]
    fits = [
        _Fit(shape, tau, np.column_stack([_columns(shape, dose_N, tau), others_NC]), change_N)
        for tau in taus
    ]
    return min(fits, key=lambda fit: fit.rss)


def _taus(dose_N: Array) -> list[float]:
    return [float(tau) for tau in np.geomspace(dose_N.min() / 5, dose_N.max() * 3, _N_TAUS)]


def _turning(
    fit: _Fit, sign: float, lowest: float, highest: float
) -> tuple[float, Interval | None]:
    """Return the p-value of no rise and fall within the doses seen, and where the parabola turns, by Fieller."""
    b = sign * fit.weights_P[1:3]
    v_22 = fit.covariance[1:3, 1:3]

    def slope_t(dose: float) -> float:
        x = np.array([1.0, 2 * math.log(dose)])
        return float(x @ b / math.sqrt(max(float(x @ v_22 @ x), 1e-300)))

    p = max(t_tail(slope_t(lowest), fit.freedom), t_tail(-slope_t(highest), fit.freedom))
    # All turning points x = -b1 / (2 b2) that the data do not refuse: (b1 + 2 x b2)^2 <= t^2 var.
    t2 = t_quantile(0.975, fit.freedom) ** 2
    a2 = 4 * (b[1] ** 2 - t2 * v_22[1, 1])
    a1 = 4 * (b[0] * b[1] - t2 * v_22[0, 1])
    a0 = b[0] ** 2 - t2 * v_22[0, 0]
    root = a1**2 - 4 * a2 * a0
    if a2 <= 0 or root < 0 or b[1] >= 0:
        return p, None
    low, high = ((-a1 + way * math.sqrt(root)) / (2 * a2) for way in (-1, 1))
    return p, Interval(value=_exp(-b[0] / (2 * b[1])), low=_exp(low), high=_exp(high))


def _exp(logarithm: float) -> float:
    """Return the dose of a logarithm; one beyond all tokens of the world where a nearly straight parabola turns."""
    return math.exp(min(max(logarithm, -60.0), 60.0))


def _saturation(
    fits: dict[Shape, _Fit], dose_N: Array, change_N: Array, others_NC: Array, sign: float
) -> Interval | None:
    """Return the dose at 95 % of the gain, with its profile-likelihood interval, if no gain or loss comes after it."""
    best = fits["saturating"]
    assert best.tau is not None
    is_better = all(best.aicc + MIN_GAIN <= fits[shape].aicc for shape in ("none", "line"))
    if not is_better or best.weights_P[1] * sign <= 0:
        return None
    bound = best.rss * (1 + t_quantile(0.975, best.freedom - 1) ** 2 / (best.freedom - 1))
    taus = _taus(dose_N)
    kept = [
        tau
        for tau in taus
        if _Fit(
            "saturating",
            tau,
            np.column_stack([_columns("saturating", dose_N, tau), others_NC]),
            change_N,
        ).rss
        <= bound
    ]
    # The ends lie between the last value kept and the next one tried.
    step = math.sqrt(taus[1] / taus[0])
    ends = (best.tau, min(kept) / step, max(kept) * step)
    value, low, high = (-math.log(0.05) * tau for tau in ends)
    beyond_N = dose_N > value
    if high > dose_N.max() or _falls(dose_N[beyond_N], change_N[beyond_N], sign):
        return None
    return Interval(value=value, low=low, high=high)


def _falls(dose_N: Array, change_N: Array, sign: float) -> bool:
    """Return whether more is worse among these doses: then nothing has levelled off, whatever shape fits best."""
    if len(set(change_N)) < 3 or np.ptp(dose_N) == 0:
        return False
    line = _Fit("line", None, _columns("line", dose_N, None), change_N)
    t = -sign * line.weights_P[1] / math.sqrt(max(line.covariance[1, 1], 1e-300))
    return line.freedom > 0 and t_tail(t, line.freedom) < ALPHA


def _curve(
    fit: _Fit, lowest: float, highest: float
) -> tuple[tuple[float, float, float, float], ...]:
    doses_M = np.geomspace(lowest, highest, 9)
    design_MP = np.zeros((len(doses_M), fit.design_NP.shape[1]))
    columns_MC = _columns(fit.shape, doses_M, fit.tau)
    design_MP[:, : columns_MC.shape[1]] = columns_MC
    mean_M = design_MP @ fit.weights_P
    half_M = t_quantile(0.975, fit.freedom) * np.sqrt(
        np.einsum("mp,pq,mq->m", design_MP, fit.covariance, design_MP)
    )
    return tuple(
        (float(d), float(m), float(m - h), float(m + h))
        for d, m, h in zip(doses_M, mean_M, half_M, strict=True)
    )


def _supported(response: DoseResponse) -> DoseResponse:
    """Take back points that the correction over all curves does not bear out."""
    changes: dict[str, None] = {}
    if not response.is_shown:
        changes |= {"saturates_at": None, "turns_at": None}
    if response.harm_holm is None or response.harm_holm >= 0.05:
        changes |= {"turns_at": None}
    turn = response.turns_at
    if turn is not None and not response.lowest < turn.value < response.highest:
        changes |= {"turns_at": None}
    return response.model_copy(update=changes)


def _points(known: Known) -> Iterator[tuple[str, str, Stage]]:
    """Yield parent's key, key and last stage of every recipe that was scored, and whose parent was.

    Of recipes whose doses came out as the same steps on the same rows, only the one with the most seeds: the others
    are the same models, and no further evidence.
    """
    seen: set[tuple[str, tuple[str, int, int]]] = set()
    for key, measured in sorted(known.recipes.items(), key=lambda each: -len(each[1].by_seed)):
        if measured.recipe.stages:
            parent, stage = measured.parent, measured.recipe.stages[-1]
            # What combines models has no dose and rate of its own.
            if parent is not None and parent in known.recipes and isinstance(stage, Stage):
                trainings = {(parent, training) for training in measured.trainings.values()}
                if not trainings & seen:
                    yield parent, key, stage
                seen |= trainings
