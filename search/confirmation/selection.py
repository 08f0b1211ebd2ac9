"""The suite on rows of the selection: what `confirm` asks so that luck with the items of the search goes too.

The search chose the front by its scores on some items, and what is chosen on them suits them better than others. Fresh
seeds do not take that away; rows that nobody has looked at do. No torch.
"""

from __future__ import annotations

from pydantic import ValidationError

from evaluators.spec import EvaluatorSpec
from search.check_evaluators import source_key
from search.errors import StudyError
from search.folders import TrialFolder, read_record_text
from search.scoring import SuiteResult
from search.spec import StudySpec

WITHOUT = (
    "The study has no rows for selection, so luck with the items of the search stays in these values; "
    "give sources of the suite parts with selection to take that away too"
)


def selected_evaluators(spec: StudySpec) -> dict[str, EvaluatorSpec]:
    """Return the evaluators of the suite whose rows have a part for the selection.

    Texts that an evaluator compares with, as `style` does, are the same in search and selection; one whose texts
    another evaluator is measured on is left out.
    """

    def has_part(source: str) -> bool:
        parts = spec.sources[source].parts if source in spec.sources else None
        return parts is not None and parts.selection is not None

    found = {}
    for name, evaluator in spec.full_suite.items():
        roles = [(source, source_key(evaluator, source)) for source, _ in evaluator.sources()]
        measured = [source for source, key in roles if key == "source"]
        compared = [source for source, key in roles if key != "source"]
        if measured and all(map(has_part, measured)) and not any(map(has_part, compared)):
            found[name] = evaluator
    return found


def read_selection(folder: TrialFolder) -> SuiteResult | None:
    """Return what the suite said of a replicate on rows of the selection; None if it was not asked.

    Raises:
        StudyError: The file is damaged.
    """
    if not folder.selection.is_file():
        return None
    try:
        return SuiteResult.model_validate_json(read_record_text(folder.selection))
    except (ValidationError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{folder.selection}: damaged; remove its folder and call `apportion confirm` again"
        ) from error
