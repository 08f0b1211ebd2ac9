"""Checks of scoring on part of the items: what it cannot do, and where it would save nothing. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evaluators.reply_specs import DiversitySpec
from evaluators.spec import CostSpec, EvaluatorSpec, HarnessSpec
from search.check_adapters import Finding
from search.messages import suggest, value_text
from search.sources import Source
from search.spec import FidelitySpec, StudySpec

OF_ALL_REPLIES = ("distinct_1", "distinct_2", "self_bleu")
"""Scores that depend on how many replies there are: on a part they are other numbers, and no estimates."""


def fidelity_findings(spec: StudySpec, sources: Mapping[str, Source]) -> Iterator[Finding]:
    """Yield what is wrong with a study's fidelity.

    Args:
        spec: The study.
        sources: Those that could be read.
    """
    fidelity = spec.fidelity
    if fidelity is None:
        return
    for name, share in fidelity.evaluators.items():
        place = ("fidelity", "evaluators", name)
        if name not in spec.full_suite:
            hint = suggest(name, spec.full_suite)
            yield Finding(place, f"{value_text(name)} is no evaluator of the suite; {hint}")
        elif share < 1 and isinstance(spec.full_suite[name], CostSpec | HarnessSpec):
            kind = spec.full_suite[name].evaluator
            remedy = "remove it" if kind == "cost" else "remove it, or set limit in the evaluator"
            text = f"{share:g} has no effect: {kind} reads no rows of sources; {remedy}"
            yield Finding(place, text)
    yield from _goal_findings(spec, fidelity)
    yield from _saving_findings(spec, fidelity, sources)


def _goal_findings(spec: StudySpec, fidelity: FidelitySpec) -> Iterator[Finding]:
    """Refuse objectives and constraints that a part of the items cannot estimate."""
    shares = fidelity.shares(spec.full_suite)
    named = [("objectives", n, each.score) for n, each in enumerate(spec.objectives)]
    named += [("constraints", n, each.score) for n, each in enumerate(spec.constraints)]
    for group, at, score in named:
        name, _, part = score.partition(".")
        evaluator = spec.full_suite.get(name)
        if isinstance(evaluator, DiversitySpec) and part in OF_ALL_REPLIES and shares[name] < 1:
            text = (
                f"{score} depends on how many replies there are, so part of the items does not estimate it; "
                f"set fidelity.evaluators.{name}: 1"
            )
            yield Finding((group, at, "score"), text)


def _saving_findings(
    spec: StudySpec, fidelity: FidelitySpec, sources: Mapping[str, Source]
) -> Iterator[Finding]:
    shares = fidelity.shares(spec.full_suite)
    if all(share >= 1 for share in shares.values()):
        yield Finding(
            ("fidelity", "items"),
            f"{fidelity.items:g} leaves all items to be asked at once; give less than 1, or remove fidelity",
        )
        return
    rows = {name: source.seen_by("search") for name, source in sources.items()}
    if any(not _is_readable(evaluator, sources) for evaluator in spec.full_suite.values()):
        return
    from evaluators.suite import chosen_part  # late: most commands look at no rows

    parts = [
        chosen_part(evaluator, rows, shares[name], fidelity.seed)
        for name, evaluator in spec.full_suite.items()
    ]
    if not any(parts):
        yield Finding(
            ("fidelity", "items"),
            f"{fidelity.items:g} takes all items of every evaluator, as there are so few (8 at least are asked); "
            "give more items, or remove fidelity",
        )


def _is_readable(evaluator: EvaluatorSpec, sources: Mapping[str, Source]) -> bool:
    return all(source in sources for source, _ in evaluator.sources())
