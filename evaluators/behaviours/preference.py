"""Preference: is the chosen answer likelier than the rejected one, and has training moved it that way?

Claim    `<name>.accuracy` is the share of pairs whose chosen answer has the higher log-probability per token; ties
         count half. `<name>.margin` is the mean difference. Both compare answers of unlike length, which sums cannot:
         where chosen answers are longer, accuracy by sums is near 0 whatever training does.
         `<name>.gain` is the mean over pairs of what DPO optimises, the implicit reward margin without beta (Rafailov
         et al. 2023, arXiv 2305.18290, eq. 7): how far the model prefers the chosen answer more than the base does.
         `<name>.gain_accuracy` is the share of pairs where that is positive; ties count half, so the base has 0.5.
Data     A source of format `preference`: `prompt`, `chosen` and `rejected`, all raw text or all messages.
Values   `chosen_nats`, `rejected_nats`: log-probabilities, summed over `chosen_tokens`, `rejected_tokens`;
         `base_chosen_nats`, `base_rejected_nats`: the base's.
         margin = mean(chosen_nats / chosen_tokens - rejected_nats / rejected_tokens); accuracy = share of it > 0;
         gain = mean((chosen_nats - base_chosen_nats) - (rejected_nats - base_rejected_nats)); gain_accuracy likewise.
         Standard errors: `stats.share_estimate` for shares, `stats.mean_estimate` for means.
Version  1
Limits   Likelihood of given answers is not what a model writes. `gain` grows with the length of the answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from evaluators.base import Evaluator, Row, conversation_of, first_rows, hash_of, item, score, shown
from evaluators.scores import Item, Measurement, Score, ScoreInfo
from evaluators.spec import PreferenceSpec
from evaluators.stats import Estimate, mean_estimate, share_estimate
from evaluators.tokens import Logp

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

_Answer = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[int, Field(gt=0)]]
_PAIRS = TypeAdapter(list[tuple[_Answer, _Answer]], config=ConfigDict(strict=True))
NO_REFERENCE = "nothing is known of the base: measure the suite's reference first"


class Preference(Evaluator):
    """Accuracy, margin, and gain over the base on pairs of answers."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True

    def __init__(self, name: str, spec: PreferenceSpec, rows: Sequence[Row]) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec
        self.rows = first_rows(name, spec.source, rows, spec.limit)
        self.pairs = []
        for index, row in enumerate(self.rows):
            prompt, chosen, rejected = (
                conversation_of(name, index, row, key) for key in ("prompt", "chosen", "rejected")
            )
            if len({type(part) for part in (prompt, chosen, rejected)}) > 1:
                raise ValueError(
                    f"evaluator {name}: row {index} mixes raw text and messages; use one of them for "
                    "prompt, chosen and rejected"
                )
            self.pairs.append((prompt, (chosen, rejected)))

    def fingerprint(self) -> str:
        """Return a hash of version, spec and rows."""
        return hash_of(self.version, self.spec, self.rows)

    def reference(self, base: LoadedModel) -> list[tuple[Logp, ...]]:
        """Return the base's log-probabilities of the answers."""
        return base.completion_logps(self.pairs)

    def write_reference(self, reference: Any) -> bytes | None:
        """Return JSON: per pair, nats and number of tokens of both answers; None if nats are not finite."""
        if not all(math.isfinite(answer.nats) for pair in reference for answer in pair):
            return None
        return json.dumps(reference).encode()

    def read_reference(self, data: bytes, base: LoadedModel) -> list[tuple[Logp, ...]]:
        """Return what `write_reference` was given; JSON writes floats so that they come back bit for bit.

        Raises:
            ValueError: It is no such JSON, or of another number of pairs.
        """
        pairs = _PAIRS.validate_json(data)
        if len(pairs) != len(self.pairs):
            raise ValueError(f"the reference has {len(pairs)} pairs, not {len(self.pairs)}")
        return [(Logp(*chosen), Logp(*rejected)) for chosen, rejected in pairs]

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return accuracy and margin, and the gains if the base's log-probabilities are known."""
        return self._measurement(model.completion_logps(self.pairs), reference)

    def measure_base(
        self, base: LoadedModel, reference: Any, outputs: Sequence[str]
    ) -> Measurement:
        """Return the same of the base, whose log-probabilities the reference is."""
        return self._measurement(reference, reference)

    def _measurement(
        self, logps: Sequence[tuple[Logp, ...]], reference: Sequence[tuple[Logp, ...]] | None
    ) -> Measurement:
        margins, gains, items = [], [], []
        for index, (row, (chosen, rejected)) in enumerate(zip(self.rows, logps, strict=True)):
            values: dict[str, float] = {
                "chosen_nats": chosen.nats,
                "rejected_nats": rejected.nats,
                "chosen_tokens": chosen.n_tokens,
                "rejected_tokens": rejected.n_tokens,
            }
            margins.append(chosen.nats / chosen.n_tokens - rejected.nats / rejected.n_tokens)
            if reference is not None:
                base_chosen, base_rejected = reference[index]
                values["base_chosen_nats"] = base_chosen.nats
                values["base_rejected_nats"] = base_rejected.nats
                gains.append(
                    (chosen.nats - base_chosen.nats) - (rejected.nats - base_rejected.nats)
                )
            items.append(self._item(index, row, values))
        accuracy, margin, gain, gain_accuracy = self.infos
        scores = (
            _score(accuracy, margins, _positive_share),
            _score(margin, margins, mean_estimate),
            _score(gain, gains, mean_estimate),
            _score(gain_accuracy, gains, _positive_share),
        )
        return Measurement(scores=scores, items=tuple(items))

    def _item(self, index: int, row: Row, values: dict[str, float]) -> Item:
        kind = None if row.get("kind") is None else str(row["kind"])
        return item(self.name, index, values, kind=kind, prompt=shown(self.pairs[index][0]))


def _score(
    info: ScoreInfo, differences: Sequence[float], estimate: Callable[[Sequence[float]], Estimate]
) -> Score:
    if not differences:
        return Score.missing(info, NO_REFERENCE)
    n_bad = sum(not math.isfinite(difference) for difference in differences)
    if n_bad:
        return Score.missing(
            info, f"log-probabilities of {n_bad} of {len(differences)} pairs are not finite"
        )
    return score(info, estimate(differences), len(differences))


def _positive_share(differences: Sequence[float]) -> Estimate:
    """Return the share of positive differences; ties count half."""
    return share_estimate([0.5 if each == 0 else float(each > 0) for each in differences])
