"""What must hold for every space that study.yaml can say: decoding, refusals, digests, files and proposals."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import any_space
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from search.check_combining import combining_findings
from search.check_methods import method_findings
from search.check_space import name_findings, order_findings, space_findings
from search.check_values import influence_findings
from search.recipe_file import read_recipe, recipe_text
from search.sampling.stagewise.tree import Tree
from spaces.params import Params, RandomSuggester
from spaces.recipe import Recipe, Stage
from spaces.space import Space

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
SEEDS = st.integers(0, 2**31)


def whole(max_examples: int) -> settings:
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=SLOW)


def refused(error: ValueError) -> NoReturn:
    """End an example that was refused, if each reason is one line."""
    is_listed = isinstance(error, ValidationError)
    reasons = [each["msg"] for each in error.errors()] if is_listed else [str(error)]  # type: ignore[attr-defined]
    assert all(reason and "\n" not in reason for reason in reasons), reasons
    reject()


def space_of(data: any_space.Data) -> Space:
    """Return the space of a study; a refusal ends the example."""
    try:
        spec = any_space.study(data)
        return Space(spec.influences, spec.order)
    except ValueError as error:
        refused(error)


def recipe_of(space: Space, params: Params) -> Recipe:
    """Return the recipe that params mean; a refusal ends the example."""
    try:
        return space.decode(params)
    except ValueError as error:
        refused(error)


@whole(80)
@given(any_space.studies(), SEEDS)
def test_params_mean_a_legal_recipe_or_are_refused_with_a_reason(
    data: any_space.Data, seed: int
) -> None:
    space = space_of(data)
    for conditional in (True, False):
        recipe = recipe_of(space, space.suggest(RandomSuggester(seed), conditional))
        Recipe.model_validate_json(recipe.model_dump_json())
        assert all(one.dose_tokens > 0 for stage in recipe.stages for one in stage.trainings)
        names = [stage.influence for stage in recipe.stages]
        if space.rounds == 1:
            space.rules.check(names)


@whole(40)
@given(any_space.studies(), SEEDS)
def test_a_study_that_check_finds_nothing_wrong_with_draws_legal_recipes_alone(
    data: any_space.Data, seed: int
) -> None:
    space = space_of(data)
    spec = any_space.study(data)
    findings = [
        *name_findings(spec),
        *method_findings(spec),
        *order_findings(spec),
        *influence_findings(spec, Path()),
        *combining_findings(spec, Path()),
    ]
    assert all(finding.place and "\n" not in finding.text for finding in findings)
    assume(all(finding.is_warning for finding in findings))
    drawn = list(space_findings(spec))
    assert all(finding.place and "\n" not in finding.text for finding in drawn)
    assume(not drawn)
    for other in range(20):
        space.decode(space.sample(seed + other))


@whole(80)
@given(any_space.studies(), SEEDS)
def test_what_the_stagewise_sampler_sees_of_a_trial_leads_back_to_its_recipe(
    data: any_space.Data, seed: int
) -> None:
    space = space_of(data)
    params = space.sample(seed)
    recipe, tree = recipe_of(space, params), Tree(space)
    node = tree.node(params)
    for step, stage in zip(node, recipe.stages, strict=True):
        assert step.influence == stage.influence
        if isinstance(stage, Stage):
            assert tree.dose_tokens(step) == stage.dose_tokens
    if space.rounds != 1:
        # A few tokens in many rounds leave some rounds without the stage, and such a recipe has no second name.
        n_runs = Counter(step.influence for step in node)
        assume(set(n_runs.values()) <= {params.get("n_rounds", space.rounds)})
    assert tree.is_legal(node)
    assert space.decode(tree.params(node)) == recipe


@whole(80)
@given(any_space.studies(), SEEDS)
def test_params_of_a_prefix_mean_the_prefix(data: any_space.Data, seed: int) -> None:
    space = space_of(data)
    params = space.sample(seed)
    recipe = recipe_of(space, params)
    for n_stages in range(1, len(recipe.stages) + 1):
        found = space.prefix(params, n_stages)
        is_plain = space.rounds == 1 and n_stages >= space.rules.min_stages
        assert found is not None or not is_plain
        assert found is None or space.decode(found) == recipe.prefix(n_stages)


@whole(50)
@given(any_space.studies(), SEEDS)
def test_recipe_yaml_reads_back_as_the_recipe(data: any_space.Data, seed: int) -> None:
    space = space_of(data)
    recipe = recipe_of(space, space.sample(seed))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe_text(any_space.study(data), recipe, 7, Path(folder), Path(folder)))
        assert read_recipe(path).recipe == recipe


def dumped(value: Any) -> Any:
    """Return a stage or a part of one as plain data, with the fields that digests leave out."""
    if isinstance(value, BaseModel):
        return {name: dumped(getattr(value, name)) for name in type(value).model_fields}
    return {key: dumped(one) for key, one in value.items()} if isinstance(value, dict) else value


def leaves(data: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        yield from (
            leaves(value, (*place, key)) if value and isinstance(value, dict) else [(*place, key)]
        )


WORDS = {
    "method": ("ipo", "dpo", "orpo", "sft"),
    "handoff": ("stack", "detach", "merge"),
    "arbitration": ("pcgrad", "normalised", "sum"),
    "init": ("gaussian", "default"),
    "targets": ("attention", "mlp", "all"),
    "layers": ("1-1", "0-2"),
    "exclude": ("k_proj", "v_proj"),
}
"""Other words for the fields that have words."""
GIVEN = {
    "end_mix": {"chat": 1.0},
    "temperature": 1.5,
    "max_passes": 3.0,
    "end_weight": 0.7,
    "ranks": {"mlp": 3},
    "alphas": {"attention": 3.0},
}
"""What stands for fields without a value."""


def others_of(name: str, value: Any) -> tuple[Any, ...]:
    """Return other values for a field."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int | float):
        return (value + 1, value / 2) if isinstance(value, float) else (value + 1,)
    if isinstance(value, str):
        return tuple(word for word in WORDS.get(name, ()) if word != value)
    return (GIVEN[name],) if name in GIVEN else ()


def changed(stage: Stage) -> Iterator[Stage]:
    """Yield stages that differ from a stage in one field alone, each field as far as it can be changed."""
    data = dumped(stage)
    for *path, name in leaves(data):
        spot = reduce(dict.__getitem__, path, data)
        before = spot[name]
        for other in others_of(name, before):
            spot[name] = other
            with suppress(ValidationError):
                yield Stage.model_validate(data)
        spot[name] = before
    for mix in ("mix", "end_mix"):
        shares = getattr(stage, mix)
        if shares is not None and len(shares) == 2:
            (first, much), (second, little) = shares.items()
            new = {first: much + little / 2, second: little / 2}
            yield stage.model_copy(update={mix: new})


def active(stage: Stage) -> Stage:
    """Return a stage without the losses that never have a weight, which change nothing."""
    terms = {name: term for name, term in stage.terms.items() if term.is_active}
    return stage.model_copy(update={"terms": terms})


HASHES = {name: f"hash of {name}" for name in any_space.SOURCES}


@whole(60)
@given(any_space.studies(), SEEDS)
def test_digests_differ_exactly_where_a_field_that_matters_differs(
    data: any_space.Data, seed: int
) -> None:
    space = space_of(data)
    recipe = recipe_of(space, space.sample(seed))
    for stage in [one for each in recipe.stages for one in each.trainings][:2]:
        digest = Recipe(stages=(stage,)).prefix_digests("", HASHES)[-1]
        others = list(changed(stage))
        assert len(others) > 5
        for other in others:
            is_equal = Recipe(stages=(other,)).prefix_digests("", HASHES)[-1] == digest
            assert is_equal == (active(other) == active(stage)), f"{stage}\n{other}"


@whole(60)
@given(any_space.studies(), SEEDS)
def test_names_and_their_order_are_in_no_digest(data: any_space.Data, seed: int) -> None:
    space = space_of(data)
    recipe = recipe_of(space, space.sample(seed))
    new = {name: f"x{name[::-1]}" for name in any_space.SOURCES}
    hashes = {new[name]: found for name, found in HASHES.items()}

    def renamed(value: Any) -> Any:
        """Rename sources wherever they are keys, and turn the order of all keys but those of branches around."""
        if isinstance(value, list | tuple):
            return tuple(renamed(one) for one in value)
        if not isinstance(value, dict):
            return value
        keys = value if {"left", "right"} & set(value) else reversed(value)
        found = {new.get(key, key): renamed(value[key]) for key in keys}
        return found | {"influence": "other"} if "influence" in found else found

    again = Recipe.model_validate(renamed(recipe.model_dump()))
    assert again.prefix_digests("", hashes) == recipe.prefix_digests("", HASHES)
    assert again.stage_seeds("", hashes) == recipe.stage_seeds("", HASHES)


@pytest.mark.parametrize("part", ["METHODS", "ADAPTERS"])
def test_strategies_know_every_method_and_adapter(part: str) -> None:
    method = Stage.model_fields["method"].annotation
    adapter = {"full", "lora", "adalora"}
    known = set(method.__args__) if part == "METHODS" else adapter  # type: ignore[union-attr]
    assert set(getattr(any_space, part)) == known
