"""What `check` says of influences that combine models: one line each, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.check import all_problems
from search.store import StageStore

DIGEST = "ab" * 32
APART = """
  apart:
    method: parallel
    branches: {warm: {stages: [tone], weight: 0.5}, kind: {stages: [tone, taste], weight: {low: -1.0, high: 1.0}}}
    combination: {how: ties, density: 0.5}
"""
BLEND = f"""
  blend:
    method: merge
    models: {{own: {{weight: 1.0}}, donor: {{digest: "{DIGEST}", weight: 0.5}}}}
"""


def problems(study: Path, influence: str, *more: tuple[str, str]) -> list[str]:
    head, tail = study.read_text().split("order:", 1)
    text = f"{head}{influence.strip(chr(10))}\norder:{tail}"
    for old, new in more:
        assert old in text, old
        text = text.replace(old, new)
    study.write_text(text)
    return [str(problem).partition(": ")[2] for problem in all_problems(study)]


def test_branches_of_known_influences_are_fine(good_study: Path) -> None:
    assert problems(good_study, APART) == []


REFUSED = [
    ("kind: {stages: [tone, taste]", "kind: {stages: [tone, tast]", "stages[1]: 'tast' is not an influence; did you"),
    ("kind: {stages: [tone, taste]", "kind: {stages: [apart]", "kind.stages[0]: 'apart' combines models itself"),
    ("density: 0.5", "density: 0", "influences.apart.combination.density: 0.0 is not possible; write a share above 0"),
    ("density: 0.5", "density: {low: 0.5, high: 1.5}", "apart.combination.density.high: 1.5 is not possible"),
    ("ties, density: 0.5", "svd, rank: 0", "influences.apart.combination.rank: 0 is not possible; write a number of"),
    ("{path: model}", "{path: model, bits: 4}", "influences.apart.method: weights of 4 or 8 bits cannot be combined"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "text"), REFUSED)
def test_what_cannot_be_combined_is_refused_with_its_place(
    good_study: Path, old: str, new: str, text: str
) -> None:
    assert any(text in problem for problem in problems(good_study, APART, (old, new)))


def test_merge_wants_a_store_that_studies_share(good_study: Path) -> None:
    found = problems(good_study, BLEND)
    assert found[0].startswith("influences.blend.models: merge takes models from a stage store")
    assert "name it in store.path" in found[0]


def test_merge_names_the_digest_that_the_store_lacks(good_study: Path) -> None:
    StageStore(good_study.parent / "shared")
    (good_study.parent / "shared").mkdir(exist_ok=True)
    found = problems(good_study, BLEND, ("budget:", "store: {path: shared}\nbudget:"))
    assert found == [
        f"influences.blend.models.donor.digest: {DIGEST[:12]} is not in the stage store shared; "
        "`apportion store ls` prints what is"
    ]


def test_influence_that_only_a_branch_trains_is_no_idle_one(good_study: Path) -> None:
    only_apart = ("order:\n", "order:\n  influences: [apart]\n")
    bare = ("  before: [[tone, taste]]\n", "")
    found = problems(good_study, APART, only_apart, bare)
    assert not any("never runs" in problem for problem in found)
