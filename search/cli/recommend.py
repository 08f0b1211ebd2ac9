"""`apportion recommend` and `apportion routes`: one trial for given wishes, and other ways to the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.explain import Folder, Json
from search.cli.output import print_json
from search.errors import SpecError, StudyError

RECOMMEND_EXAMPLES = """\b
Examples:
  apportion recommend results/inner_voice                   # the knee
  apportion recommend results/inner_voice --target 'structure>=0.9' --target 'retention.kl<=0.2'
  apportion recommend results/inner_voice --weights structure=2,retention.kl=1
  apportion recommend results/inner_voice --lexicographic structure,taste.margin"""
ROUTES_EXAMPLES = """\b
Examples:
  apportion routes results/inner_voice                      # as good as the recommended trial, made differently
  apportion routes results/inner_voice --like 7 --scores structure,retention.kl --margin 0.1"""


def recommend(
    folder: Folder,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="A bound, such as 'structure>=0.9'; may be given again."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Objectives with weights, such as structure=2,taste=1.")
    ] = None,
    lexicographic: Annotated[
        str | None, typer.Option(help="Scores, the most important first, with commas between.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend a trial: why, what was given up for it, and what more certainty would cost."""
    from search.attribution.reasons import reasons
    from search.attribution.recommend import recommend as recommended
    from search.attribution.targets import Target, read_names, read_weights
    from search.cli.measured import OpenedStudy

    if weights is not None and lexicographic is not None:
        raise SpecError("--weights and --lexicographic: exclude each other; give one")
    opened = OpenedStudy.open(folder)
    if not opened.completed:
        raise StudyError(f"{folder}: no trial is complete yet; wait for one, or `apportion resume`")
    known = opened.known.directions
    targets = [Target.of(constraint) for constraint in opened.spec.constraints]
    targets += [Target.read(text, known) for text in target or ()]
    answer = recommended(
        opened.known,
        opened.completed,
        opened.objectives,
        targets,
        read_weights(weights, list(opened.objectives)) if weights is not None else None,
        read_names("--lexicographic", lexicographic, known) if lexicographic is not None else (),
    )
    sentences = reasons(answer)
    if as_json:
        print_json({**answer.model_dump(mode="json"), "sentences": sentences})
        return
    from rich.console import Console

    from search.cli.explain_text import say
    from search.report.numbers import interval_text

    console = Console()
    if answer.trial is not None:
        say(console, "trial", f"{answer.trial.trial}: {answer.trial.recipe}")
        values = (
            f"{name} {interval_text(value, answer.trial.stderrs[name])}"
            for name, value in answer.trial.values.items()
        )
        say(console, "scores", ", ".join(values))
    for sentence in sentences:
        say(console, "", sentence)
    if answer.trial is not None:
        say(console, "", _MIND)
        say(console, "model", f"{opened.folder.trial(answer.trial.trial).recipe}")


_MIND = (
    "Mind: it was picked among many for its scores, so part of them is luck; the holdout says by how much, "
    "and so does training it anew with other seeds."
)


def routes(
    folder: Folder,
    like: Annotated[
        int | None,
        typer.Option(help="Trial to match. Default: as `apportion recommend` says.", min=0),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(help="Scores to match, with commas between. Default: the objectives."),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            help="What counts as equal: in a share itself, else a share of the range seen."
        ),
    ] = 0.05,
    n: Annotated[int, typer.Option("--n", help="Most routes.", min=2, max=20)] = 4,
    as_json: Json = False,
) -> None:
    """Show recipes that are shown to score alike and are made as differently as possible."""
    from search.attribution.routes import find_routes
    from search.attribution.targets import read_names
    from search.cli.measured import OpenedStudy

    opened = OpenedStudy.open(folder)
    names = list(opened.objectives)
    if scores is not None:
        names = read_names("--scores", scores, opened.known.directions)
    margins = opened.margins(dict.fromkeys(names, "maximise"), margin)
    candidates = _feasible(opened)
    if like is None:
        like = _recommended(opened, folder)
    first = opened.trial(like)
    if first.state != "COMPLETE":
        raise StudyError(f"{folder}: trial {like} is {first.state}; name one that is complete")
    found = find_routes(opened.known, candidates, first, margins, n)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console

    from search.cli.routes_text import print_routes

    print_routes(Console(), found, opened.known.n_seeds)


def _recommended(opened: Any, folder: Path) -> int:
    from search.attribution.recommend import recommend as recommended
    from search.attribution.targets import Target

    targets = [Target.of(constraint) for constraint in opened.spec.constraints]
    answer = recommended(opened.known, opened.completed, opened.objectives, targets)
    if answer.trial is None:
        raise StudyError(
            f"{folder}: no completed trial keeps all constraints; name one with --like"
        )
    return answer.trial.trial


def _feasible(opened: Any) -> list[Any]:
    from search.attribution.targets import Target

    targets = [Target.of(constraint) for constraint in opened.spec.constraints]
    found = []
    for trial in opened.completed:
        scores = trial.final_scores
        values = [scores[t.score].value if t.score in scores else None for t in targets]
        if all(v is not None and t.shortfall(v) <= 0 for t, v in zip(targets, values, strict=True)):
            found.append(trial)
    return found
