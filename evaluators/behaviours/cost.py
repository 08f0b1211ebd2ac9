"""Cost: what did the stages that made the model take?

Claim    `<name>.tokens` is the training tokens of all stages from the base on, padding excluded; `.seconds` their
         wall seconds of training and set-up; `.trainable_parameters` the most parameters that one stage moved;
         `.stored_parameters` the parameters to be kept beside the base, at most, all stages together; `.peak_memory`
         the most bytes of device memory that a stage had in use. The cost is the recipe's, not the trial's: a stage
         that was taken from the store counts like a trained one.
Data     What the caller knows of the stages (`facts.StageFacts`); the model is not looked at.
Values   One item per stage, `index` from 0: `tokens`, `seconds`, `trainable_parameters`, `stored_parameters`,
         `peak_memory`; what is not known is absent. Scores are sums over stages, of `trainable_parameters` and
         `peak_memory` the maximum. No standard errors: nothing was sampled. A score is missing where it is not known
         of some stage. Of the base all are 0 but `peak_memory`, which is missing: nothing was trained.
Version  1
Limits   Seconds differ from run to run and from machine to machine; of a stage from the store they are those that the
         store recorded when it was trained. Evaluations are not part of them. Memory is known on CUDA alone, and what
         a merge takes from elsewhere is not known. Within a stage, at a rung, only tokens and seconds are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.base import Evaluator, hash_of, item
from evaluators.facts import Facts, StageFacts
from evaluators.scores import Measurement, Score, ScoreInfo
from evaluators.spec import CostSpec

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

PARTS: dict[str, Callable[[Sequence[float]], float]] = {
    "tokens": sum,
    "seconds": sum,
    "trainable_parameters": max,
    "stored_parameters": sum,
    "peak_memory": max,
}
UNKNOWN = "nothing is known of how the model was made"


class Cost(Evaluator):
    """Tokens, seconds, parameters and memory of the stages that made a model."""

    version: ClassVar[int] = 1
    needs_facts: ClassVar[bool] = True

    def __init__(self, name: str, spec: CostSpec) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec

    def fingerprint(self) -> str:
        """Return a hash of version and spec."""
        return hash_of(self.version, self.spec, [])

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return missing scores: a model does not tell how it was made."""
        return self.account(None)

    def account(self, facts: Facts | None) -> Measurement:
        """Return what the stages took."""
        if facts is None:
            return Measurement(
                scores=tuple(Score.missing(info, UNKNOWN) for info in self.infos), items=()
            )
        items = tuple(
            item(
                self.name,
                index,
                {part: value for part in PARTS if (value := getattr(stage, part)) is not None},
            )
            for index, stage in enumerate(facts)
        )
        scores = tuple(
            _score(info, part, facts) for info, part in zip(self.infos, PARTS, strict=True)
        )
        return Measurement(scores=scores, items=items)


def _score(info: ScoreInfo, part: str, facts: Sequence[StageFacts]) -> Score:
    values = [getattr(stage, part) for stage in facts]
    unknown = [number for number, value in enumerate(values, 1) if value is None]
    if unknown:
        return Score.missing(info, f"{part} of stage {unknown[0]} is not known")
    if not values and part == "peak_memory":
        return Score.missing(info, "nothing was trained")
    return Score(
        name=info.name,
        value=float(PARTS[part](values)) if values else 0.0,
        n=len(values),
        unit=info.unit,
        direction=info.direction,
    )
