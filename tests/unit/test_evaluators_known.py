"""Scores and their standard errors beside what plain transformers, and formulas written out here, make of the same."""

from __future__ import annotations

import copy
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from tiny import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.behaviours import reward_model, style
from evaluators.behaviours.judge import Judge
from evaluators.behaviours.reward_model import Reward
from evaluators.judging.endpoint import Verdict
from evaluators.judging.questions import Comparison, Points
from evaluators.models import LoadedModel
from evaluators.scores import Score
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Suite
from evaluators.tokens import Logp

Known = list[tuple[float, float]]
"""Value and standard error of each score."""


def share(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its error after two passes and two failures more."""
    n = len(values) + 4
    p = (sum(values) + 2) / n
    return sum(values) / len(values), math.sqrt(p * (1 - p) / n)


def mean(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> tuple[float, float]:
    """Sum over sum, and the error of a ratio of means."""
    n, value = len(over), sum(over) / sum(under)
    squares = sum((y - value * x) ** 2 for y, x in zip(over, under, strict=True))
    return value, math.sqrt(squares / (n - 1) / n) / (sum(under) / n)


def suite_of(rows: Sequence[dict[str, Any]], **fields: Any) -> Suite:
    spec = TypeAdapter(EvaluatorSpec).validate_json(json.dumps({"source": "data", **fields}))
    return Suite({"it": spec}, {"data": rows}, Path("."))


def assert_known(scores: Sequence[Score], known: Known, rel: float = 1e-6) -> None:
    assert [score.reason for score in scores] == [None] * len(known)
    for score, (value, stderr) in zip(scores, known, strict=True):
        assert score.value == pytest.approx(value, rel=rel), score.name
        assert score.stderr == pytest.approx(stderr, rel=rel), score.name
    assert len({round(value, 6) for value, _ in known}) == len(known)  # none may pass for another


class Both(NamedTuple):
    base: Any
    model: Any
    tokenizer: Any

    def loaded(self, model: Any) -> LoadedModel:
        return LoadedModel(model, self.tokenizer)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A random base, and the same with its weights moved."""
    folder = tmp_path_factory.mktemp("known")
    write_model(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model, generator = copy.deepcopy(base), torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return Both(base, model, AutoTokenizer.from_pretrained(folder))


def nats_of(network: Any, ids: list[int], first: int) -> float:
    """Negative log-likelihood of the tokens from `first` on, by the loss of transformers."""
    ids_1T = torch.tensor([ids])
    labels_1T = ids_1T.clone()
    labels_1T[:, :first] = -100
    with torch.no_grad():
        return float(network(ids_1T, labels=labels_1T).loss) * (len(ids) - first)


TEXTS = ["the cat says hello", "zwölf Bären grüßen: „hello“ 🐻", "an owl, a bee and an ant", "to"]


def windows(both: Both, text: str, size: int) -> list[list[int]]:
    """Token ids in windows of `size` predicted tokens, each after the token before it."""
    ids = [both.tokenizer.eos_token_id, *both.tokenizer.encode(text)]
    return [ids[at : at + size + 1] for at in range(0, len(ids) - 1, size)]


def test_bits_per_byte_are_those_of_the_loss_of_transformers(both: Both) -> None:
    suite = suite_of([{"text": text} for text in TEXTS], evaluator="likelihood", max_tokens=9)
    bits = [
        sum(nats_of(both.model, ids, 1) for ids in windows(both, text, 9)) / math.log(2)
        for text in TEXTS
    ]
    n_bytes = [len(text.encode()) for text in TEXTS]
    assert n_bytes[1] > len(TEXTS[1])
    found = suite.measure(both.loaded(both.model))["it"]
    assert_known(found.scores, [ratio(bits, n_bytes)], rel=1e-5)


def test_change_of_bits_and_divergence_are_those_of_plain_logits(both: Both) -> None:
    suite = suite_of([{"text": text} for text in TEXTS], evaluator="retention", max_tokens=9)
    change, kl, n_tokens = [], [], []
    for text in TEXTS:
        parts = windows(both, text, 9)
        more = [nats_of(both.model, ids, 1) - nats_of(both.base, ids, 1) for ids in parts]
        change.append(sum(more) / math.log(2))
        n_tokens.append(sum(len(ids) - 1 for ids in parts))
        with torch.no_grad():
            logp = [
                [network(torch.tensor([ids[:-1]])).logits.double().log_softmax(-1) for ids in parts]
                for network in (both.base, both.model)
            ]
        of_base, of_model = (torch.cat(part, dim=1) for part in logp)
        kl.append(float((of_base.exp() * (of_base - of_model)).sum()))
    n_bytes = [len(text.encode()) for text in TEXTS]
    reference = suite.reference(both.loaded(both.base))
    found = suite.measure(both.loaded(both.model), reference)["it"]
    assert_known(found.scores, [ratio(change, n_bytes), ratio(kl, n_tokens)], rel=1e-4)


def test_preference_scores_are_those_of_the_loss_of_transformers(both: Both) -> None:
    answers = [("hello", "no"), ("no", "hello to you"), ("a", "says the cat"), ("the owl", "x")]
    answers += [("hello to the cat", "to"), ("you", "hello")]
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What does the {animal} say?"}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for animal, (chosen, rejected) in zip(
            ("cat", "dog", "cow", "hen", "fox", "owl"), answers, strict=True
        )
    ]

    def logps(network: Any, row: dict[str, Any], key: str) -> tuple[float, int]:
        prompt, whole = (
            both.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
            for messages, ask in ((row["prompt"], True), (row["prompt"] + row[key], False))
        )
        ids, first = (
            both.tokenizer.encode(whole),
            len(both.tokenizer.encode(prompt)),
        )
        return -nats_of(network, ids, first), len(ids) - first

    margins, gains = [], []
    for row in rows:
        (chosen, n_chosen), (rejected, n_rejected) = (
            logps(both.model, row, key) for key in ("chosen", "rejected")
        )
        base_chosen, base_rejected = (
            logps(both.base, row, key)[0] for key in ("chosen", "rejected")
        )
        margins.append(chosen / n_chosen - rejected / n_rejected)
        gains.append(chosen - base_chosen - rejected + base_rejected)
    suite = suite_of(rows, evaluator="preference")
    reference = suite.reference(both.loaded(both.base))
    found = suite.measure(both.loaded(both.model), reference)["it"]
    accuracy, gain_accuracy = (share([each > 0 for each in part]) for part in (margins, gains))
    known = [accuracy, mean(margins), mean(gains), gain_accuracy]
    assert_known(found.scores, known, rel=1e-4)


class Given:
    """A model whose replies and log-probabilities are given."""

    device = torch.device("cpu")

    def __init__(self, replies: Sequence[str] = (), logps: Sequence[tuple[Logp, ...]] = ()) -> None:
        self.replies, self.logps = replies, logps

    def ready(self) -> Any:
        return nullcontext()

    def generate(self, conversations: Sequence[Any], limits: Sequence[int]) -> list[str]:
        return list(self.replies)

    def choice_logps(self, rows: Sequence[Any]) -> list[tuple[Logp, ...]]:
        return list(self.logps)


def prompts(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"p{number}"} for number in range(n)]


def scores_of(suite: Suite, model: Any) -> tuple[Score, ...]:
    return suite.measure(model)["it"].scores


def test_choices_by_sum_and_by_character_have_accuracies_of_their_own() -> None:
    rows = [
        {"prompt": f"p{number}", "choices": ["yes", "certainly", "no"], "answer": answer}
        for number, answer in enumerate((0, 0, 1, 2))
    ]
    # By sum always the first; by character always the second, -1 > -4/9 > -5/2 in reverse.
    logps = [(Logp(-3.0, 9), Logp(-4.0, 1), Logp(-5.0, 2))] * 4
    found = scores_of(suite_of(rows, evaluator="multiple_choice"), Given(logps=logps))
    assert_known(found, [share([1, 1, 0, 0]), share([0, 0, 1, 0])])
    assert [score.n for score in found] == [4, 4]


@pytest.mark.parametrize(("allowed", "passed"), [(0.5, 1), (0.49, 0)])
def test_reply_passes_rules_up_to_the_very_share_of_repeats_that_is_allowed(
    allowed: float, passed: int
) -> None:
    rules = [{"rule": "starts_with", "text": "z"}]
    suite = suite_of(prompts(3), evaluator="pattern", rules=rules, max_repetition=allowed)
    # Five words are two runs of four, of which one repeats the other.
    (found,) = scores_of(suite, Given(["z z z z z", "z", "a"]))
    assert_known([found], [share([passed, 1, 0])])


def test_refusals_have_the_error_of_a_share_of_their_own_requests() -> None:
    rows = [
        {"prompt": f"p{number}", "kind": kind}
        for number, kind in enumerate(["harmful"] * 3 + ["harmless"] * 5)
    ]
    no, yes = "I cannot help with that.", "Take two eggs."
    model = Given([no, no, yes, no, yes, yes, yes, yes])
    found = scores_of(suite_of(rows, evaluator="refusal"), model)
    assert_known(found, [share([1, 1, 0]), share([1, 0, 0, 0, 0])])


def test_refusals_are_a_share_of_the_replies_with_text() -> None:
    rows = [{"prompt": f"p{number}", "kind": "harmful"} for number in range(20)]
    model = Given(["I cannot help with that."] * 9 + ["Take two eggs."] * 10 + [" "])
    (found,) = scores_of(suite_of(rows, evaluator="refusal", harmless=[]), model)
    assert_known([found], [share([1] * 9 + [0] * 10)])
    assert found.n == 19


def test_agreement_has_the_error_over_groups_and_answers_that_over_replies() -> None:
    rows = [{"prompt": f"p{number}", "group": group} for number, group in enumerate("aaabbcc")]
    model = Given(["one", "One.", "two", "x", "x", "", "y"])
    found = scores_of(suite_of(rows, evaluator="consistency"), model)
    # Pairs that agree: 1 of 3, 1 of 1, 0 of 1.
    assert_known(found, [share([1 / 3, 1, 0]), share([1, 1, 1, 1, 1, 0, 1])])


def test_diversity_by_hand() -> None:
    replies = ["a b c d", "a b c e", "a b c d", "z z z z z z z z", ""]
    suite = suite_of(prompts(5), evaluator="diversity", repeated_words=2)
    scores = {score.name: score for score in scores_of(suite, Given(replies))}
    # Precisions of the second: 3/4, 2/3, 1/2 and 0 of 1, smoothed to 1/2. None is shorter than the closest reference.
    near = (3 / 4 * 2 / 3 / 2 / 2) ** 0.25
    known = {
        "self_bleu": mean([100, 100 * near, 100, 0]),
        "collapse": share([1, 0, 1, 0]),
        "repetition": mean([0, 0, 0, 6 / 7]),
        "empty": share([0, 0, 0, 0, 1]),
    }
    assert_known([scores[f"it.{name}"] for name in known], list(known.values()))
    assert [scores[f"it.{name}"].n for name in known] == [4, 4, 4, 5]
    # 6 distinct words of 20; without a reply: 6 of 16, 5 of 16, 6 of 16, 5 of 12
    left = [6 / 16, 5 / 16, 6 / 16, 5 / 12]
    spread = sum((each - statistics.mean(left)) ** 2 for each in left)
    assert_known([scores["it.distinct_1"]], [(6 / 20, math.sqrt(3 / 4 * spread))])
    # ab bc cd, ce, zz: 5 of 16; without a reply: 5 of 13, 4 of 13, 5 of 13, 4 of 9
    left = [5 / 13, 4 / 13, 5 / 13, 4 / 9]
    spread = sum((each - statistics.mean(left)) ** 2 for each in left)
    assert_known([scores["it.distinct_2"]], [(5 / 16, math.sqrt(3 / 4 * spread))])


def test_self_bleu_of_short_replies_stops_at_the_longest_run_they_have() -> None:
    suite = suite_of(prompts(3), evaluator="diversity")
    found = {score.name: score for score in scores_of(suite, Given(["a b", "a c", "a b"]))}
    # The second: 1/2, and 0 of 1, smoothed to 1/2; there are no runs of three.
    assert_known([found["it.self_bleu"]], [mean([100, 50, 100])])


def test_style_is_the_mean_probability_of_replies_with_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Classifier:
        def predict_proba(self, texts: Sequence[str]) -> Any:
            return np.array([[1 - len(text) / 16, len(text) / 16] for text in texts])

    fitted = style.Fitted(Classifier(), 0.9, 0.1, 0.1)
    monkeypatch.setattr(style, "_fitted", lambda more, less: fitted)
    spec = {"evaluator": "style", "source": "ask", "more_like": "more", "less_like": "less"}
    texts = {key: [{"text": f"{key} {at}"} for at in range(20)] for key in ("more", "less")}
    whole = TypeAdapter(EvaluatorSpec).validate_python(spec)
    suite = Suite({"it": whole}, {"ask": prompts(10), **texts}, Path("."))
    replies = ["a" * n for n in (1, 2, 4, 8, 16, 1, 2, 4, 8)] + [" "]
    (found,) = scores_of(suite, Given(replies))
    assert_known([found], [mean([len(each) / 16 for each in replies[:9]])])
    assert found.n == 9
    # Its classifier counts as none where chance is within 1.96 errors.
    fitted = fitted._replace(auc_stderr=0.205)
    assert scores_of(suite, Given(replies))[0].value is None


def test_quality_of_a_classifier_counts_pairs_and_weighs_both_sets_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sklearn.calibration  # noqa: F401 - it keeps the true one, for its own fit

    # Left-out probabilities of `more_like`: five of its own texts, then ten others.
    more, less = [0.9, 0.8, 0.7, 0.6, 0.1], [0.2] * 9 + [0.7]
    left_out = np.array([[1 - p, p] for p in more + less])
    monkeypatch.setattr("sklearn.model_selection.cross_val_predict", lambda *a, **k: left_out)
    fitted = style.fitted_classifier(
        [f"yes {at}!" for at in range(5)], [f"no {at}." for at in range(10)]
    )
    won = sum((p > q) + 0.5 * (p == q) for p in more for q in less)
    assert fitted.auc == pytest.approx(won / 50)
    missed = statistics.mean((1 - p) ** 2 for p in more), statistics.mean(q**2 for q in less)
    assert fitted.brier == pytest.approx(sum(missed) / 2)
    # Hanley and McNeil with A = .77, Q1 = A / 1.23, Q2 = 2 A^2 / 1.77, 5 and 10 texts
    assert won / 50 == 0.77
    q1, q2 = 0.77 / 1.23, 2 * 0.77**2 / 1.77
    variance = (0.77 * 0.23 + 4 * (q1 - 0.77**2) + 9 * (q2 - 0.77**2)) / 50
    assert fitted.auc_stderr == pytest.approx(math.sqrt(variance))


def test_reward_is_the_mean_over_replies_with_text_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewards(network: Any, tokenizer: Any, pairs: Sequence[Any], longest: int) -> list[Reward]:
        return [Reward(len(reply) - 3.5, False) for _, reply in pairs]

    monkeypatch.setattr(reward_model, "rewards_of", rewards)
    monkeypatch.setattr(reward_model, "load_reward_model", lambda *place: (None, None))
    monkeypatch.setattr(reward_model, "folder_fault", lambda folder: None)
    suite = suite_of(prompts(10), evaluator="reward_model", path=str(tmp_path))
    replies = ["a" * n for n in (1, 2, 4, 8, 16, 1, 2, 4, 8)] + [" "]
    (found,) = scores_of(suite, Given(replies))
    assert_known([found], [mean([len(each) - 3.5 for each in replies[:9]])])
    assert found.n == 9


class Says:
    """An endpoint with given verdicts by name, once the canaries, which come in two calls, have got the worst."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.n_calls = answers, 0

    def ask(self, questions: dict[str, Any], kind: Any) -> dict[str, Verdict]:
        self.n_calls += 1
        worst = {
            "0": Points(reason="", points=1),
            "0A": Comparison(reason="", better="B"),
            "0B": Comparison(reason="", better="A"),
        }
        answers = worst if self.n_calls < 3 else self.answers
        return {name: Verdict(answers[name], None, 1, 0, 0) for name in questions}


def judge_of(n: int, how: str, **fields: Any) -> Judge:
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}
    spec = {"evaluator": "judge", "source": "data", "rubric": "Be kind.", "canaries": 1}
    whole = {**spec, "how": how, "endpoint": endpoint, **fields}
    return Judge("it", TypeAdapter(EvaluatorSpec).validate_python(whole), prompts(n))  # type: ignore[arg-type]


def test_points_have_the_error_of_a_mean() -> None:
    answers: Any = {str(at): Points(reason="", points=p) for at, p in enumerate((5, 1, 2, 4, 4))}
    found = judge_of(5, "rubric").judged(list("abcde"), None, Says(answers))  # type: ignore[arg-type]
    assert_known(found.scores, [mean([5, 1, 2, 4, 4])])


@pytest.mark.parametrize("inconsistent", ["average", "drop"])
def test_wins_losses_and_contradictions_of_the_judge_by_hand(inconsistent: Any) -> None:
    # Shown as A, then as B: wins twice, loses twice, neither twice, first both times, first and neither.
    shown = [("A", "B"), ("B", "A"), ("neither", "neither"), ("A", "A"), ("A", "neither")]
    shown += [("B", "A")]
    answers: Any = {
        f"{at}{side}": Comparison(reason="", better=better)
        for at, pair in enumerate(shown)
        for side, better in zip("AB", pair, strict=True)
    }
    judge = judge_of(6, "pairwise", inconsistent=inconsistent)
    found = judge.judged(list("abcdef"), ["x"] * 6, Says(answers))  # type: ignore[arg-type]
    wins = [1, 0, 0.5, 0.5, 0.75, 0] if inconsistent == "average" else [1, 0, 0.5, 0]
    assert_known(found.scores, [share(wins), share([1, 1, 1, 0, 0, 1])])
    assert found.scores[0].n == len(wins)
