"""Style: more like these texts, less like those, by a classifier fitted to the two sets.

Claim    `<name>` is the mean, over greedy continuations, of the calibrated probability that a text comes from the
         source `more_like` and not from `less_like`. No model's likelihood enters it.
Data     A source of format `prompt`, and two of format `text` with at least 20 different texts each.
Values   `probability`, absent for replies without text. score = mean of `probability` with `stats.mean_estimate`;
         missing where more than a tenth of the replies are empty, or where the classifier cannot tell the sets apart.
         `details` has the classifier's cross-validated `auc`, its standard error `auc_stderr` (Hanley and McNeil
         1982, Radiology 143(1)), and the `brier` score of its probabilities, 0.25 being a guess of one half.
Method   TF-IDF of runs of 2 to 4 characters within words, and logistic regression (scikit-learn); the probability is
         calibrated by Platt's sigmoid on decisions about texts left out, in 5 stratified folds of seed 0. AUC and
         Brier score come from 5 folds around all of that. Both sets weigh the same, whatever their sizes. It cannot
         tell them apart where auc < `min_auc` or auc - 1.96 auc_stderr <= 0.5.
Version  1
Limits   The classifier finds whatever differs, topic and spelling as much as style: give two sets on the same topics,
         and of about the same length as replies. A reply like neither set has a probability all the same. A sampler
         that optimises the score finds what fools a bag of characters: keep `diversity` and a holdout beside it. The
         standard error knows of the replies alone, not of the classifier.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from evaluators.base import Row, hash_of, score, text_of
from evaluators.replies import ReplyEvaluator, empty_fault, is_empty
from evaluators.reply_specs import StyleSpec
from evaluators.scores import Measurement, Score
from evaluators.stats import mean_estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

FEWEST_TEXTS = 20
N_FOLDS = 5


class Fitted(NamedTuple):
    """A classifier and how well it tells texts apart that it has not seen."""

    classifier: Any
    """Of scikit-learn; column 1 of `predict_proba` is the probability of `more_like`."""
    auc: float
    """In [0, 1]; 0.5 is chance."""
    auc_stderr: float
    brier: float
    """Mean squared error of the probabilities, both sets weighing the same, in [0, 1]."""


class Style(ReplyEvaluator[StyleSpec]):
    """Mean probability that a reply comes from one set of texts and not from another."""

    version: ClassVar[int] = 1

    def __init__(
        self,
        name: str,
        spec: StyleSpec,
        rows: Sequence[Row],
        more_like: Sequence[Row],
        less_like: Sequence[Row],
    ) -> None:
        super().__init__(name, spec, rows)
        self.more_like = _texts(name, spec.more_like, more_like)
        self.less_like = _texts(name, spec.less_like, less_like)
        shared = set(self.more_like) & set(self.less_like)
        if shared:
            raise ValueError(
                f"evaluator {name}: {len(shared)} texts are in {spec.more_like} and in {spec.less_like}, such "
                f"as {min(shared)!r:.60}; remove them from one"
            )

    def fingerprint(self) -> str:
        """Return a hash of version, spec, rows, texts and the version of scikit-learn."""
        library = importlib.metadata.version("scikit-learn")
        return hash_of(
            self.version, self.spec, [self.rows, self.more_like, self.less_like, library]
        )

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return the mean probability."""
        fitted = _fitted(tuple(self.more_like), tuple(self.less_like))
        said = [output for output in outputs if not is_empty(output)]
        found = iter(fitted.classifier.predict_proba(said)[:, 1].tolist() if said else ())
        quality = {"auc": fitted.auc, "auc_stderr": fitted.auc_stderr, "brier": fitted.brier}
        items = tuple(
            self.reply_item(
                index,
                output,
                {} if is_empty(output) else {"probability": next(found)},
                quality,
            )
            for index, output in enumerate(outputs)
        )
        fault = self._fault(fitted) or empty_fault(outputs)
        if fault is not None:
            return Measurement(scores=(Score.missing(self.infos[0], fault),), items=items)
        column = [each.values["probability"] for each in items if each.values]
        return Measurement(
            scores=(score(self.infos[0], mean_estimate(column), len(column)),), items=items
        )

    def _fault(self, fitted: Fitted) -> str | None:
        if fitted.auc >= self.spec.min_auc and fitted.auc - 1.96 * fitted.auc_stderr > 0.5:
            return None
        return (
            f"the classifier cannot tell {self.spec.more_like} from {self.spec.less_like}: its cross-validated "
            f"AUC is {fitted.auc:.2f} (standard error {fitted.auc_stderr:.2f}), and min_auc is "
            f"{self.spec.min_auc:g}"
        )


def fitted_classifier(more_like: Sequence[str], less_like: Sequence[str]) -> Fitted:
    """Return a calibrated classifier of two sets of texts, fitted to all, and its cross-validated quality.

    Source: Platt 1999, Probabilistic outputs for support vector machines; Hanley and McNeil 1982 for the error of AUC.

    Args:
        more_like: Texts of class 1, at least `N_FOLDS`.
        less_like: Texts of class 0, likewise.
    """
    import numpy as np
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [*more_like, *less_like]
    labels_N = np.array([1] * len(more_like) + [0] * len(less_like))
    weights_N = np.where(labels_N == 1, 0.5 / len(more_like), 0.5 / len(less_like))
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    plain = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000),
    )
    calibrated = CalibratedClassifierCV(plain, method="sigmoid", cv=folds, ensemble=False)
    left_out_N = cross_val_predict(calibrated, texts, labels_N, cv=folds, method="predict_proba")[
        :, 1
    ]
    auc = float(roc_auc_score(labels_N, left_out_N))
    return Fitted(
        calibrated.fit(texts, labels_N),
        auc,
        auc_stderr(auc, len(more_like), len(less_like)),
        float((weights_N * (left_out_N - labels_N) ** 2).sum()),
    )


def auc_stderr(auc: float, n_positive: int, n_negative: int) -> float:
    """Return the standard error of an area under the ROC curve.

    Source: Hanley and McNeil 1982, Radiology 143(1), eq. 2, with Q1 = A / (2 - A) and Q2 = 2 A^2 / (1 + A).
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    ) / (n_positive * n_negative)
    return math.sqrt(max(0.0, variance))


@lru_cache(maxsize=8)
def _fitted(more_like: tuple[str, ...], less_like: tuple[str, ...]) -> Fitted:
    """Return the classifier of two sets: suites of one process on the same texts fit it once."""
    return fitted_classifier(more_like, less_like)


def _texts(name: str, source: str, rows: Sequence[Row]) -> list[str]:
    """Return the different texts of a source, in order.

    Raises:
        ValueError: They are too few, or a row has none.
    """
    texts = list(dict.fromkeys(text_of(name, index, row, "text") for index, row in enumerate(rows)))
    if len(texts) < FEWEST_TEXTS:
        raise ValueError(
            f"evaluator {name}: source {source} has {len(texts)} different texts; a classifier needs "
            f"{FEWEST_TEXTS} or more"
        )
    return texts
