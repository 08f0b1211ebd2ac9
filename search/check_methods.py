"""Checks of what influences train with: sources of a format the method reads, settings that can be. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from search.check_adapters import Finding, numbers
from search.messages import KeyPath, suggest, value_text
from search.spec import StudySpec
from spaces.influence import CurriculumSpec, InfluenceSpec, RampSpec, TemperatureSpec, TermSpec
from spaces.loss import SETTINGS, mix_sources
from spaces.mix_spec import source_places
from spaces.recipe import Stage
from spaces.spec import Spec

METHOD_FORMATS: dict[str, tuple[str, ...]] = {
    "sft": ("messages", "prompt-completion", "text"),
    "dpo": ("preference",),
    "ipo": ("preference",),
    "orpo": ("preference",),
    "simpo": ("preference",),
    "kto": ("preference", "unpaired-preference"),
}
"""Loss on data to the formats of sources that it trains on."""


def method_findings(spec: StudySpec) -> Iterator[Finding]:
    """Yield what is wrong with the mixes, terms and settings of losses of all influences."""
    for name, influence in spec.training_influences.items():
        place: KeyPath = ("influences", name)
        yield from _mix_findings(spec, influence, place)
        yield from _setting_findings(influence, place)
        for loss, term in influence.terms.items():
            where = (*place, "terms", loss)
            yield from _setting_findings(term, where)
            yield from _weight_findings(term, (*where, "weight"))
        losses = influence.terms if influence.method == "joint" else (influence.method,)
        if "kto" in losses and spec.training.rows_per_step < 2:
            text = "1 is too few for kto, which compares answers of one step; write 2 or more"
            yield Finding(("training", "rows_per_step"), text)


def stage_source_problem(stage: Stage, formats: dict[str, str]) -> str | None:
    """Return what is wrong with the sources of a decided stage; None if nothing is.

    Args:
        stage: The stage.
        formats: Source name to format, of all sources there are.
    """
    for loss, term in stage.losses.items():
        for name in mix_sources(term):
            if name not in formats:
                return f"source {value_text(name)} of the mix is not among the sources; {suggest(name, formats)}"
            wanted = METHOD_FORMATS[loss]
            if formats[name] not in wanted:
                return (
                    f"source {name!r} of the mix has format {formats[name]}, and {loss} reads "
                    f"{' or '.join(wanted)}; name another"
                )
    return None


def _mix_findings(spec: StudySpec, influence: InfluenceSpec, place: KeyPath) -> Iterator[Finding]:
    for below, (loss, mix) in influence.mixes.items():
        wanted = METHOD_FORMATS[loss]
        for spot, source in source_places(mix):
            where = (*place, *below, *spot)
            if source not in spec.sources:
                hint = suggest(source, spec.sources)
                text = f"source {value_text(source)} is not among the sources; {hint}"
                yield Finding(where, text)
            elif spec.sources[source].format not in wanted:
                found, formats = spec.sources[source].format, " or ".join(wanted)
                text = f"source {source!r} has format {found}, and {loss} reads {formats}; name another"
                yield Finding(where, text)
        if isinstance(mix, TemperatureSpec):
            where = (*place, *below, "temperature")
            yield from _bound_findings(mix.temperature, where, is_zero_legal=False)
        elif isinstance(mix, CurriculumSpec) and mix.start == mix.end:
            text = "start and end are equal; write the shares without start and end"
            yield Finding((*place, *below), text, is_warning=isinstance(mix.start, Spec))


def _setting_findings(holder: InfluenceSpec | TermSpec, place: KeyPath) -> Iterator[Finding]:
    for name in SETTINGS:
        value = getattr(holder, name)
        yield from _bound_findings(value, (*place, name), is_zero_legal=name != "beta")


def _weight_findings(term: TermSpec, place: KeyPath) -> Iterator[Finding]:
    if isinstance(term.weight, RampSpec):
        for side in ("start", "end"):
            yield from _bound_findings(getattr(term.weight, side), (*place, side), True)
    else:
        yield from _bound_findings(term.weight, place, is_zero_legal=True)


def _bound_findings(value: object, place: KeyPath, is_zero_legal: bool) -> Iterator[Finding]:
    """Yield the numbers of a value, fixed or to be searched, that are too small."""
    for spot, number in numbers(value, place):
        if number < 0 or (number == 0 and not is_zero_legal):
            remedy = "write a number of at least 0" if is_zero_legal else "write a number above 0"
            yield Finding(spot, f"{number} is not possible; {remedy}")
