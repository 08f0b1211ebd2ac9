"""`apportion score`: what a study's suite says of a saved model, whoever trained it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from search.cli.explain import Json
from search.cli.output import print_json
from search.errors import SpecError

EXAMPLES = """\b
Examples:
  apportion score my_study/study.yaml my_model
  apportion score results/inner_voice my_model               # beside the study's base
  apportion score results/inner_voice my_model --against 7   # does it repeat trial 7?
  apportion score results/inner_voice my_adapter other_model --json"""


def score(
    study: Annotated[
        Path, typer.Argument(help="Study file or results folder.", metavar="STUDY|RESULTS")
    ],
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with a model or a PEFT adapter, as `save_pretrained` writes them.",
            metavar="MODEL...",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="Number of a trial, or `base`, to compare with; of a results folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score saved models by a study's suite and holdout, and say whether they differ from a trial."""
    if not study.exists():
        raise SpecError(f"{study}: no such file or folder; name a study file or a results folder")
    for folder in models:
        if not folder.is_dir():
            raise SpecError(f"{folder}: no such folder; name one that holds a model")
    # Spinning threads slow each other down on a busy machine; torch reads this once, when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console
    from rich.text import Text

    from search.cli.compare_text import SCORES, score_table
    from search.cli.score_text import scores_alone
    from search.measuring import Scorer

    scorer = Scorer(study, lambda line: typer.echo(line, err=True))
    against = against or ("base" if scorer.results is not None else None)
    told = []
    console = Console()
    for folder in models:
        scored = scorer.score(folder)
        found = scorer.differences(scored, against) if against else ()
        if as_json:
            told.append(
                {
                    "model": str(folder),
                    "suite": [each.model_dump(mode="json") for each in scored.suite.scores],
                    "holdout": [each.model_dump(mode="json") for each in scored.holdout.scores],
                    "against": against,
                    "differences": [
                        {**each.model_dump(mode="json"), "verdict": each.verdict} for each in found
                    ],
                }
            )
            continue
        console.print(Text(str(folder)))
        if against:
            name = "base" if against == "base" else f"trial {against}"
            console.print(score_table(found, name, "model"))
            console.print(Text(SCORES))
        else:
            console.print(scores_alone(scored))
    if as_json:
        print_json(told)
