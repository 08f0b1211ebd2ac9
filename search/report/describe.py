"""A study in sentences and small tables, shared by report.html and report.md."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from search.failures import WORDS, failure_text
from search.records import TrialRecord
from search.report.numbers import count_text, duration_text, number_text, tokens_text
from search.report.study_file import launches
from search.report.view import StudyView, total_seconds
from search.spec import BudgetSpec
from spaces.adapter import AdaLora, Full, Lora
from spaces.adapter_spec import SplitSpec
from spaces.influence import (
    CurriculumSpec,
    InfluenceSpec,
    MergeSpec,
    ParallelSpec,
    RampSpec,
    ShareRange,
    SimplexSpec,
    TemperatureSpec,
)
from spaces.mix_spec import AnyMix
from spaces.recipe import Merge, Parallel, Stage
from spaces.spec import ends

INTERVAL_NOTE = (
    "Intervals are ±1.96 standard errors over items. They do not include the spread between seeds and do not "
    "correct for having picked the best-looking of many trials."
)


def searched_sentence(view: StudyView) -> str:
    """Return what was searched, in one sentence."""
    spec = view.spec
    base = spec.base.hub or spec.base.package or spec.base.path or "a local model"
    names = tuple(spec.order.influences or spec.influences)
    fewest_rounds, most_rounds = (int(end) for end in ends(spec.order.rounds))
    fewest = spec.order.min_stages * fewest_rounds
    most = (spec.order.max_stages or len(names) * spec.order.max_repeats) * most_rounds
    span = f"{fewest} to {most}" if most != fewest else f"exactly {most}"
    n_stages = f"{span} {'stage' if most == 1 else 'stages'}"
    sampler = f"sampler {spec.sampler.name}"
    return (
        f"Searched which of {count_text(len(names), 'influence')} ({', '.join(names)}) to apply to {base}, "
        f"in what order and dose: {n_stages} a recipe, {sampler}."
    )


def trials_sentence(view: StudyView) -> str:
    """Return how many trials there are, by state."""
    n_by_state = {
        state: sum(trial.state == state for trial in view.trials)
        for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")
    }
    parts = [f"{n_by_state['COMPLETE']:,} complete"]
    n_infeasible = n_by_state["COMPLETE"] - len(view.feasible)
    if n_infeasible:
        parts[0] += f" ({n_infeasible:,} of them infeasible)"
    if n_by_state["PRUNED"]:
        parts.append(f"{n_by_state['PRUNED']:,} stopped early")
    if n_by_state["FAIL"]:
        parts.append(f"{n_by_state['FAIL']:,} failed")
    if n_by_state["RUNNING"]:
        parts.append(f"{n_by_state['RUNNING']:,} running")
    return f"{count_text(len(view.trials), 'trial')}: {', '.join(parts)}."


def front_sentence(view: StudyView) -> str:
    """Return what is on the front, without calling anything better inside the noise."""
    if not view.finished:
        return "No trial has finished yet, so there is no front."
    if not view.front:
        return (
            "No finished trial has every objective measured and keeps every constraint, so there is no front: "
            "see the reasons below."
        )
    members = view.front_trials
    text = f"The front holds {len(members):,} of {count_text(len(view.feasible), 'feasible trial')}"
    if view.base is None:
        return f"{text}; the base has not been scored, so gains over it are unknown."
    others = [trial for trial in members if trial.number != view.base.number]
    n_gaining = sum(view.noise_note(trial) is None for trial in others)
    if view.base.number in view.front:
        text += ", the untouched base among them"
    if not others:
        return f"{text}: nothing that was tried gained on it in any objective."
    if not n_gaining:
        return f"{text}; none gains on the base by more than noise in any objective."
    verb = "gains" if n_gaining == 1 else "gain"
    how = "before correcting for selection"
    if all(view.confirmed_gains(trial.number) is not None for trial in others):
        how = "with fresh seeds, so corrected for selection"
    return (
        f"{text}; {n_gaining:,} {verb} on the base by more than noise in at least one objective "
        f"({how})."
    )


def budget_rows(view: StudyView) -> list[tuple[str, str, str]]:
    """Return (what, spent, allowed) of the budget; `allowed` is empty where there is no bound."""
    budget = _budget(view)
    n_tokens = sum(trial.trained_tokens for trial in view.trials)
    compute = sum(total_seconds(trial) for trial in view.trials)
    rows = [
        (
            "trials finished",
            f"{len(view.finished):,}",
            f"{budget.trials:,}" if budget.trials else "",
        ),
        (
            "tokens trained",
            tokens_text(n_tokens),
            tokens_text(budget.train_tokens) if budget.train_tokens else "",
        ),
        (
            "compute in trials",
            duration_text(compute),
            duration_text(budget.compute_seconds) if budget.compute_seconds else "",
        ),
    ]
    n_asked = sum(stage.trained_tokens for trial in view.trials for stage in trial.stages)
    if n_asked > n_tokens > 0:
        rows.append(("redundancy factor", f"{n_asked / n_tokens:.2f}", ""))
    walls = [launch.wall_seconds for launch in launches(view.study_file)]
    known = [seconds for seconds in walls if seconds is not None]
    allowed = duration_text(budget.wall_seconds) if budget.wall_seconds else ""
    if known or allowed:
        rows.append(("wall time", duration_text(sum(known)) if known else "not recorded", allowed))
    return rows


def budget_sentence(view: StudyView) -> str:
    """Return the budget spent, in one sentence."""
    parts = [
        f"{what} {spent}{f' of {allowed}' if allowed else ''}"
        for what, spent, allowed in budget_rows(view)
    ]
    return f"Spent: {', '.join(parts)}."


def knee_sentence(view: StudyView) -> str:
    """Return what the knee is, or why there is none; with one objective nothing."""
    if len(view.objectives) < 2 or not view.front:
        return ""
    if view.knee is None:
        return "There is no knee: no front trial lies on the ideal's side of the plane through the extremes."
    return (
        f"The knee is trial {view.knee}: the front trial farthest from the plane through the extremes, "
        "after scaling the front's best value to 0 and its worst to 1 per objective."
    )


def failures(view: StudyView) -> list[tuple[str, list[int]]]:
    """Return reasons of failed trials with the trials' numbers, the most frequent first."""
    by_reason: dict[str, list[int]] = {}
    for trial in view.trials:
        if trial.state == "FAIL":
            by_reason.setdefault(failure_text(trial), []).append(trial.number)
    return sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[1]))


def lost_rows(view: StudyView) -> list[tuple[str, list[int]]]:
    """Return failures of the machines after which trials were tried again, with the trials' numbers."""
    by_reason: dict[str, list[int]] = {}
    for trial in view.trials:
        for lost in trial.lost_attempts:
            numbers = by_reason.setdefault(f"{WORDS[lost.kind]}: {lost.reason}", [])
            numbers += [trial.number] if trial.number not in numbers else []
    return sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[1]))


def infeasible_rows(view: StudyView) -> list[tuple[str, list[int]]]:
    """Return why completed trials are infeasible with the trials' numbers, the most frequent first."""
    by_reason: dict[str, list[int]] = {}
    for trial in view.trials:
        for reason in infeasible_reasons(view, trial):
            by_reason.setdefault(reason, []).append(trial.number)
    return sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[1]))


def infeasible_reasons(view: StudyView, trial: TrialRecord) -> list[str]:
    """Return which objectives a completed trial lacks and which constraints it breaks."""
    if trial.state != "COMPLETE" or trial.number in view.feasible:
        return []
    scores = trial.final_scores
    reasons = []
    for objective in view.objectives:
        score = scores.get(objective.name)
        if score is None or score.value is None:
            reasons.append(f"objective {objective.name} is missing")
    for constraint in view.spec.constraints:
        score = scores.get(constraint.score)
        if score is None or score.value is None:
            reasons.append(f"constraint on {constraint.score}: the score is missing")
        elif constraint.violation(score.value) > 0:
            is_above = constraint.at_most is not None
            bound = constraint.at_most if is_above else constraint.at_least
            reasons.append(f"{constraint.score} is {'above' if is_above else 'below'} {bound:g}")
    return reasons


def reference_text(view: StudyView) -> str:
    """Return the reference point, such as `tone 0, retention.kl 1`; empty if one has none."""
    points = [(objective.name, objective.reference) for objective in view.objectives]
    return ", ".join(f"{name} {point:g}" for name, point in points if point is not None)


def setting_rows(view: StudyView) -> list[tuple[str, str]]:
    """Return (what, value) of the settings that the results depend on."""
    spec = view.spec
    seeds = sorted({trial.seed for trial in view.trials})
    devices = sorted({trial.device for trial in view.trials})
    rows = [
        ("base", spec.base.hub or spec.base.package or spec.base.path or ""),
        ("base revision", spec.base.revision or ""),
        ("sampler", f"{spec.sampler.name}, seed {spec.sampler.seed}"),
        ("seeds of trials", ", ".join(str(seed) for seed in seeds[:10])),
        ("devices", ", ".join(devices[:10])),
        ("precision", f"weights {spec.base.dtype}, compute {spec.training.precision}"),
        ("rows per optimizer step", str(spec.training.rows_per_step)),
    ]
    return [(name, value) for name, value in rows if value]


def influence_rows(view: StudyView) -> list[dict[str, str]]:
    """Return one row per influence: what was fixed and what was searched."""
    return [
        _influence_row(name, influence)
        if isinstance(influence, InfluenceSpec)
        else _combining_row(name, influence)
        for name, influence in view.spec.influences.items()
    ]


def _influence_row(influence_name: str, influence: InfluenceSpec) -> dict[str, str]:
    adapter = influence.adapter
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value_text(getattr(adapter, name))}"
        for name, field in type(adapter).model_fields.items()
        if name in ("rank", "init_rank", "target_rank", "alpha")
        or (name not in ("kind", "targets", "layers") and getattr(adapter, name) != field.default)
    )
    return {
        "influence": influence_name,
        "method": _method_text(influence),
        "adapter": f"{adapter.kind} {settings}".strip(),
        "where": f"{value_text(adapter.targets)}, layers {value_text(adapter.layers)}",
        "mix": "; ".join(
            mix_spec_text(mix) if influence.method != "joint" else f"{loss}: {mix_spec_text(mix)}"
            for loss, mix in influence.mixes.values()
        ),
        "dose (tokens)": value_text(influence.dose_tokens),
        "learning rate": value_text(influence.learning_rate),
        "beta": value_text(influence.beta) if influence.beta is not None else "",
        "handoff": value_text(influence.handoff),
    }


def _combining_row(influence_name: str, influence: ParallelSpec | MergeSpec) -> dict[str, str]:
    """Return the row of an influence that combines models; branches and their weights stand under `adapter`."""
    shares = influence.weights.simplex if influence.weights is not None else {}
    told = []
    if isinstance(influence, ParallelSpec):
        for name, branch in influence.branches.items():
            weight = value_text(shares.get(name, branch.weight))
            told.append(f"{weight} [{' > '.join(branch.stages) or 'as received'}]")
    else:
        for name, model in influence.models.items():
            which = "as received" if model.digest is None else model.digest[:12]
            told.append(f"{value_text(shares.get(name, model.weight))} {name} ({which})")
    settings = [
        f"{field} {value_text(getattr(influence.combination, field))}"
        for field, info in type(influence.combination).model_fields.items()
        if field != "how" and getattr(influence.combination, field) != info.default
    ]
    how = ", ".join([value_text(influence.combination.how), *settings])
    return {
        "influence": influence_name,
        "method": f"{influence.method}: {how}",
        "adapter": " + ".join(told),
        **dict.fromkeys(("where", "mix", "dose (tokens)", "learning rate", "beta"), ""),
        "handoff": "merge",
    }


def _method_text(influence: InfluenceSpec) -> str:
    """Return the method of study.yaml with what it is told apart from beta, and of `joint` the weights."""
    if influence.method != "joint":
        told = [
            f"{name.replace('_', ' ')} {value_text(getattr(influence, name))}"
            for name in ("gamma", "desirable_weight", "undesirable_weight", "max_passes")
            if getattr(influence, name) is not None
        ]
        return ", ".join([influence.method, *told])
    shares = influence.weights.simplex if influence.weights is not None else {}
    weights = [
        f"{name} {value_text(shares.get(name, term.weight))}"
        for name, term in influence.terms.items()
    ]
    how = "" if influence.arbitration == "sum" else f" ({value_text(influence.arbitration)})"
    return f"joint {' + '.join(weights)}{how}"


def mix_spec_text(mix: AnyMix) -> str:
    """Return a mix of study.yaml in one line."""
    if isinstance(mix, CurriculumSpec):
        return f"from {mix_spec_text(mix.start)} to {mix_spec_text(mix.end)}"
    if isinstance(mix, TemperatureSpec):
        return f"{', '.join(mix.sources)} by size, temperature {value_text(mix.temperature)}"
    shares = mix.simplex if isinstance(mix, SimplexSpec) else mix
    return ", ".join(f"{source} {value_text(share)}" for source, share in shares.items())


def moved_text(stage: Stage | Parallel | Merge) -> str:
    """Return what a stage moves: its adapter, or the models that it combines with their weights."""
    if isinstance(stage, Stage):
        return adapter_text(stage.adapter)
    if isinstance(stage, Merge):
        return " + ".join(f"{each.weight:.3g} {name}" for name, each in stage.models.items())
    return " + ".join(
        f"{branch.weight:.3g} {name} [{' > '.join(each.label for each in branch.stages) or 'as received'}]"
        for name, branch in stage.branches.items()
    )


def adapter_text(adapter: Full | Lora | AdaLora) -> str:
    """Return an adapter's kind and the settings that are not the defaults, such as `lora rank 8, alpha 16`."""
    settings = adapter.model_dump(exclude={"kind", "targets", "layers"}, exclude_defaults=True)
    parts = [
        name if value is True else f"{name.replace('_', ' ')} {value_text(value)}"
        for name, value in settings.items()
    ]
    return f"{adapter.kind} {', '.join(parts)}".strip()


def where_text(adapter: Full | Lora | AdaLora) -> str:
    """Return which modules of which layers an adapter trains."""
    return f"{adapter.targets}, layers {adapter.layers}"


def value_text(value: Any) -> str:
    """Return a value of study.yaml: fixed, a range (`4 to 32, log`) or a choice (`one of 4, 8`)."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(entry)}" for name, entry in value.items())
    if isinstance(value, RampSpec):
        return f"from {value_text(value.start)} to {value_text(value.end)}"
    if isinstance(value, SplitSpec):
        return f"{value.side} {value_text(value.point)} of the depth"
    if isinstance(value, ShareRange):
        return f"{value.low:g} to {value.high:g}"
    if isinstance(value, BaseModel):
        data = value.model_dump()
        if "choice" in data:
            return "one of " + ", ".join(value_text(entry) for entry in data["choice"])
        text = f"{value_text(data['low'])} to {value_text(data['high'])}"
        return text + (", log" if data.get("log") else "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return f"{value:,}" if isinstance(value, int) else number_text(value)


def _budget(view: StudyView) -> BudgetSpec:
    """Return the budget as extended by resume where study.json says so, else the study's own."""
    try:
        return BudgetSpec.model_validate(view.study_file["budget"])
    except (KeyError, ValidationError):
        return view.spec.budget
