"""How much a study has of each source, in rows and tokens, and what its stages will draw of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.check_data import users
from search.data.leaks import Seen
from search.data.repeats import count_repeats
from search.data.spec import USES, Use
from search.data.words import row_words
from search.errors import SpecError
from search.sources import Source
from search.spec import StudySpec
from spaces.recipe import Stage
from spaces.space import Space

if TYPE_CHECKING:
    from search.stages.row_view import Reading, TokenCounts

N_DRAWN = 200
"""Recipes looked through for stages of an influence."""


@dataclass(frozen=True)
class SourceStats:
    """One source as one use sees it."""

    source: str
    use: Use
    format: str
    n_rows: int
    n_repeated_rows: int
    """Say all that an earlier row says."""
    n_repeated_questions: int
    """Ask what an earlier row asks, and answer otherwise."""
    n_skipped: int
    """Pairs of equal answers, of the whole source."""
    tokens: TokenCounts | None
    """None where they were not counted."""


@dataclass(frozen=True)
class Draw:
    """What one stage draws of one source."""

    influence: str
    dose_tokens: int
    source: str
    n_rows: int
    """Draws; rows drawn twice count twice."""
    n_tokens: int
    passes: float
    """Tokens drawn divided by those that the source has."""


def seen_sources(spec: StudySpec, sources: Mapping[str, Source]) -> Iterator[tuple[Source, Use]]:
    """Yield each source with each use that it has; one that is used nowhere as if it were trained on."""
    found = [seen for seen in users(spec) if seen.source in sources]
    for name, source in sources.items():
        for use in [use for use in USES if Seen(use, name) in found] or USES[:1]:
            yield source, use


def part_of_source(source: Source, use: Use) -> Source:
    """Return a source whose rows are those that a use may see."""
    content_hash = f"{source.content_hash}/{use}"
    return replace(source, rows=source.seen_by(use), content_hash=content_hash)


def source_stats(source: Source, use: Use, reading: Reading | None) -> SourceStats:
    """Return how much a use sees of a source; without tokens if nothing is said of how to read them.

    Raises:
        DataError: The chat template is missing or rewrites prompts.
    """
    part = part_of_source(source, use)
    repeats = count_repeats([row_words(row, source.format) for row in part.rows])
    tokens = None
    if reading is not None and part.rows:
        from search.stages.row_view import count_tokens

        tokens = count_tokens(part, reading, use == "train")
    return SourceStats(
        source=source.name,
        use=use,
        format=source.format,
        n_rows=len(part.rows),
        n_repeated_rows=repeats.n_rows,
        n_repeated_questions=repeats.n_questions,
        n_skipped=source.n_skipped,
        tokens=tokens,
    )


def draws(
    spec: StudySpec, sources: Mapping[str, Source], reading: Reading, name: str, dose: int | None
) -> list[Draw]:
    """Return what the smallest and the largest of some drawn stages of an influence take, or one of a given dose.

    Raises:
        SpecError: No order has the influence.
        DataError: A source has no row that can be trained on.
    """
    from search.stages.row_view import plan_draw

    space = Space(spec.influences, spec.order)
    stages = [
        stage
        for seed in range(N_DRAWN)
        for step in space.decode(space.sample(seed)).stages
        for stage in step.trainings
        if stage.influence == name
    ]
    stages.sort(key=lambda stage: stage.dose_tokens)
    if not stages:
        raise SpecError(f"influence {name}: no order has it; name it in order, or remove it")
    wanted: list[Stage] = [stages[0], stages[-1]]
    if dose is not None:
        wanted = [stages[0].model_copy(update={"dose_tokens": dose})]
    elif stages[0].dose_tokens == stages[-1].dose_tokens:
        wanted = [stages[0]]
    found = []
    for stage in wanted:
        plan = plan_draw(stage, sources, reading, spec.sampler.seed)
        drawn = [at for step in plan.steps for rows in step.rows.values() for at, _ in rows]
        found += [
            Draw(
                name,
                stage.dose_tokens,
                source,
                drawn.count(source),
                tokens,
                plan.passes_by_source[source],
            )
            for source, tokens in plan.tokens_by_source.items()
        ]
    return found
