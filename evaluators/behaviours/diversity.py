"""Diversity: does the model still say different things, or one thing over and over?

Claim    Of the greedy continuations of all prompts: `<name>.distinct_1` and `.distinct_2` are the shares of distinct
         words and pairs of words (Li et al. 2016, arXiv 1510.03055); `.self_bleu` is the mean BLEU of each reply with
         others as references (Zhu et al. 2018, arXiv 1802.01886); `.collapse` is the share of replies that are equal
         to the reply to another prompt; `.repetition` is the mean share of repeated runs of `repeated_words` words
         within a reply (seq-rep-n, Welleck et al. 2020, arXiv 1908.04319); `.empty` is the share of replies without
         text; `.cut` is the share that `max_new_tokens` cut off. All but `.empty` and `.cut` are of replies with
         text.
Data     A source of format `prompt`, best with prompts that ask for different things.
Values   `empty` and `cut`: 1 or 0. Of replies with text also, n being 1 and 2: `ngrams_<n>`, how many there are;
         `new_ngrams_<n>`, distinct ones that no earlier reply has; `own_ngrams_<n>`, distinct ones that no other
         reply has; `self_bleu`, by sacrebleu with effective order, the next 50 replies (cyclically) as references;
         `equal`: 1 if another prompt got the same words; `repetition`, absent where the reply has no such run.
         distinct_n = U / T with U = sum(new_ngrams_n), T = sum(ngrams_n); its standard error is the jackknife over
         replies, which leaves (U - own_ngrams_n) / (T - ngrams_n). The others are means of `self_bleu`, `equal`,
         `repetition`, `empty` and `cut`; standard errors by `stats.mean_estimate` for self_bleu and repetition, else
         `stats.share_estimate`.
Version  1
Limits   distinct_n falls with the number and the length of replies, and rises where they get shorter: compare with
         the base, on one source. Words are counted as `texts.words_of` finds them. Greedy text hides what sampling
         would vary. Replies of a self-BLEU depend on each other, so its standard error is too small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.base import Reply, score
from evaluators.replies import ReplyEvaluator, is_empty
from evaluators.reply_specs import DiversitySpec
from evaluators.scores import Item, Measurement, Score, ScoreInfo
from evaluators.stats import Estimate, jackknife_ratio, mean_estimate, share_estimate
from evaluators.texts import ngrams, repetition, words_of

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

REFERENCES = 50
"""Replies that each reply is compared with: all of 1,000 would take minutes."""
ORDERS = (1, 2)


class Diversity(ReplyEvaluator[DiversitySpec]):
    """Distinct n-grams, self-BLEU, collapse, repetition, empty and cut replies."""

    version: ClassVar[int] = 1

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return the seven scores."""
        values = self._values(outputs)
        items = tuple(
            self.reply_item(index, output, values[index]) for index, output in enumerate(outputs)
        )
        found = iter(self.infos)
        scores = [
            *(_distinct(next(found), order, items) for order in ORDERS),
            _mean(next(found), "self_bleu", items, "fewer than two replies have text"),
            _share(next(found), "equal", items, "no reply has text"),
            _mean(
                next(found),
                "repetition",
                items,
                f"no reply has {self.spec.repeated_words} words or more",
            ),
            _share(next(found), "empty", items, ""),
            _share(next(found), "cut", items, "it is not known which replies were cut"),
        ]
        return Measurement(scores=tuple(scores), items=items)

    def _values(self, outputs: Sequence[str]) -> list[dict[str, float]]:
        values = [{"empty": float(is_empty(output))} for output in outputs]
        for own, output in zip(values, outputs, strict=True):
            is_cut = output.is_cut if isinstance(output, Reply) else None
            if is_cut is not None:
                own["cut"] = float(is_cut)
        said = [index for index, output in enumerate(outputs) if not is_empty(output)]
        words = {index: words_of(outputs[index]) for index in said}
        for order in ORDERS:
            _add_ngrams(values, words, order)
        for index, bleu in _self_bleu([(index, outputs[index]) for index in said]):
            values[index]["self_bleu"] = bleu
        asked: dict[tuple[str, ...], set[str]] = {}
        for index in said:
            asked.setdefault(tuple(words[index]), set()).add(repr(self.conversations[index]))
        for index in said:
            values[index]["equal"] = float(len(asked[tuple(words[index])]) > 1)
            repeated = repetition(words[index], self.spec.repeated_words)
            if repeated is not None:
                values[index]["repetition"] = repeated
        return values


def _add_ngrams(
    values: Sequence[dict[str, float]], words: dict[int, list[str]], order: int
) -> None:
    runs = {index: ngrams(each, order) for index, each in words.items()}
    n_holders = Counter(run for each in runs.values() for run in set(each))
    seen: set[tuple[str, ...]] = set()
    for index, each in runs.items():
        distinct = set(each)
        values[index][f"ngrams_{order}"] = len(each)
        values[index][f"new_ngrams_{order}"] = len(distinct - seen)
        values[index][f"own_ngrams_{order}"] = sum(n_holders[run] == 1 for run in distinct)
        seen |= distinct


def _self_bleu(said: Sequence[tuple[int, str]]) -> list[tuple[int, float]]:
    """Return index and BLEU, 0 to 100, of each reply with the ones after it as references, cyclically."""
    if len(said) < 2:
        return []
    from sacrebleu.metrics.bleu import BLEU  # late: keeps it out of `check`

    bleu = BLEU(effective_order=True)
    texts = [text for _, text in said]
    n_references = min(REFERENCES, len(texts) - 1)
    found = []
    for at, (index, text) in enumerate(said):
        references = [texts[(at + step) % len(texts)] for step in range(1, n_references + 1)]
        found.append((index, float(bleu.sentence_score(text, references).score)))
    return found


def _distinct(info: ScoreInfo, order: int, items: Sequence[Item]) -> Score:
    rows = [each.values for each in items if f"ngrams_{order}" in each.values]
    if not any(row[f"ngrams_{order}"] for row in rows):
        return Score.missing(info, f"no reply has {order} words or more")
    estimate = jackknife_ratio(
        sum(row[f"new_ngrams_{order}"] for row in rows),
        sum(row[f"ngrams_{order}"] for row in rows),
        [row[f"own_ngrams_{order}"] for row in rows],
        [row[f"ngrams_{order}"] for row in rows],
    )
    return score(info, estimate, len(rows))


def _mean(info: ScoreInfo, key: str, items: Sequence[Item], fault: str) -> Score:
    return _estimated(info, [each.values[key] for each in items if key in each.values], fault)


def _share(info: ScoreInfo, key: str, items: Sequence[Item], fault: str) -> Score:
    column = [each.values[key] for each in items if key in each.values]
    return _estimated(info, column, fault, is_share=True)


def _estimated(
    info: ScoreInfo, column: Sequence[float], fault: str, is_share: bool = False
) -> Score:
    if not column:
        return Score.missing(info, fault)
    estimate: Estimate = share_estimate(column) if is_share else mean_estimate(column)
    return score(info, estimate, len(column))
