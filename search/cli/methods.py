"""`apportion methods`: what methods and adapters there are, what each moves, reads and costs, and its handoffs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from search.check_values import base_config
from search.cli.output import print_json
from search.methods_table import (
    MEASURED,
    AdapterRow,
    Cost,
    MethodRow,
    adapter_rows,
    default_adapter,
    method_rows,
    shared_settings,
    token_cost,
)
from search.parameter_share import base_shapes, n_parameters, n_trained, trained_range
from search.spec import StudySpec
from search.yaml_file import load_study
from spaces.place import FULL_TARGETS, TARGET_MODULES

EXAMPLES = """\b
Examples:
  apportion methods
  apportion methods --study study.yaml            # with shares of this base's parameters
  apportion methods --json"""
_MARKS = {"unit": "", "measured": " m", "counted": " c"}


@dataclass(frozen=True)
class Shares:
    """How much of a base moves."""

    n_base: int | None
    """Parameters of the base; None where they are not known."""
    reason: str
    """Why they are not known; empty where they are."""
    adapters: dict[str, int]
    """Kind with its defaults to parameters that train."""
    influences: dict[str, tuple[int, int]]
    """Influence to the fewest and the most that may train."""


def methods(
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Study file; its base's config.json tells shares."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List methods and adapters: what each moves, the data it reads, its settings, cost, handoffs and paper."""
    spec = None if study is None else load_study(study)
    shares = None if spec is None or study is None else _shares(spec, study.absolute().parent)
    adapters = adapter_rows(is_quantised=spec is not None and spec.base.bits is not None)
    if as_json:
        print_json(_as_json(method_rows(), adapters, shares))
        return
    _print(method_rows(), adapters, shares, spec)


def _shares(spec: StudySpec, root: Path) -> Shares:
    config = base_config(spec.base, root)
    try:
        if not config:
            raise ValueError(_no_config(spec))
        shapes = base_shapes(config)
        adapters = {
            row.name: n_trained(default_adapter(row.kind), shapes)
            for row in adapter_rows()
            if row.name == row.kind
        }
        influences = {
            name: trained_range(influence.adapter, shapes)
            for name, influence in spec.training_influences.items()
        }
    except ValueError as error:
        return Shares(None, str(error), {}, {})
    return Shares(n_parameters(shapes), "", adapters, influences)


def _no_config(spec: StudySpec) -> str:
    if spec.base.gguf_file is not None:
        return "a GGUF file has no config.json; name a folder of safetensors as base.path"
    if spec.base.hub is not None:
        return "the base is on the hub, and nothing is downloaded; name a folder as base.path"
    return "the base has no config.json that can be read; `apportion check` says more"


def _as_json(
    rows: Sequence[MethodRow], adapters: Sequence[AdapterRow], shares: Shares | None
) -> dict[str, Any]:
    return {
        "methods": [asdict(row) for row in rows],
        "shared_settings": shared_settings(),
        "adapters": [asdict(row) for row in adapters],
        "measured": [measured._asdict() for measured in MEASURED],
        "shares": None if shares is None else asdict(shares),
    }


def _print(
    rows: Sequence[MethodRow],
    adapters: Sequence[AdapterRow],
    shares: Shares | None,
    spec: StudySpec | None,
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for title in ("method", "reads", "all weights", "lora", "its settings"):
        table.add_column(title, overflow="fold", justify="left")
    for row in rows:
        costs = {cost.adapter: _cost(cost) for cost in row.costs}
        reads = ", ".join(row.formats) or (
            "the rows of its parts" if row.costs == () and row.name != "merge" else "no rows"
        )
        table.add_row(
            row.name, reads, costs.get("full", ""), costs.get("lora", ""), _list(row.settings)
        )
    console.print(table)
    for line in _method_lines(rows):
        console.print(line, soft_wrap=False)
    console.print()
    table = Table(box=None, pad_edge=False)
    titles = ["adapter", "handoffs", "while it is stacked may train", "sft token"]
    for title in [*titles, *(["trains"] if shares and shares.n_base else [])]:
        table.add_column(title, overflow="fold")
    for adapter in adapters:
        cells = [
            adapter.name,
            ", ".join(adapter.handoffs) or "none",
            _under(adapter, adapters),
            _cost(token_cost("sft", adapter.kind)) if adapter.name == adapter.kind else "",
        ]
        if shares and shares.n_base:
            cells.append(_share(shares.adapters.get(adapter.name), shares.n_base))
        table.add_row(*cells)
    console.print(table)
    for line in (*_adapter_lines(adapters), *_share_lines(shares, spec)):
        console.print(line)


def _method_lines(rows: Sequence[MethodRow]) -> Iterator[str]:
    yield ""
    for row in rows:
        yield f"{row.name}: {row.does}{f' ({row.paper})' if row.paper else ''}"
    yield f"settings of all: {_list(shared_settings())}"
    yield (
        "A token costs as many times a token of sft on all weights. m: measured, of the largest model; c: counted in "
        "forward and backward passes. A token of joint costs what its loss costs; kl comes on top, for each token it "
        "looks at."
    )
    for measured in MEASURED:
        yield (
            f"measured: {measured.method} {measured.adapter} {measured.ratio:g} "
            f"({measured.model}; {measured.source})"
        )


def _adapter_lines(adapters: Sequence[AdapterRow]) -> Iterator[str]:
    yield ""
    for row in adapters:
        papers = f" ({'; '.join(row.papers)})" if row.papers else ""
        if row.moves:
            yield f"{row.name}: {row.moves}{papers}"
            yield f"  settings: {_list(row.settings)}"
        elif papers:
            yield f"{row.name}:{papers}"
    refused: dict[tuple[str, str], list[str]] = {}
    for row in adapters:
        for handoff, reason in row.refused.items():
            told = reason.removeprefix(f"handoff {handoff!r} ")
            refused.setdefault((row.name, told), []).append(handoff)
    for (name, reason), handoffs in refused.items():
        yield f"not legal: {name} {', '.join(handoffs)}: {reason}"
    groups = {name: modules for name, modules in TARGET_MODULES.items() if name != "all"}
    for name, modules in groups.items():
        yield f"targets {name}: {', '.join(modules)}"
    yield f"targets all: {' and '.join(groups)}; of full weights also everything, {', '.join(FULL_TARGETS)}"


def _share_lines(shares: Shares | None, spec: StudySpec | None) -> Iterator[str]:
    if shares is None or spec is None:
        return
    yield ""
    if shares.n_base is None:
        yield f"shares: not known: {shares.reason}"
        return
    yield f"base: {shares.n_base:,} parameters; adapters with their defaults above"
    for name, (least, most) in shares.influences.items():
        text = _share(least, shares.n_base)
        text += "" if least == most else f" to {_share(most, shares.n_base)}"
        yield f"influence {name}: {spec.training_influences[name].adapter.kind} trains {text}"


def _under(row: AdapterRow, rows: Sequence[AdapterRow]) -> str:
    if not row.stacked_under:
        return "-"
    names = {other.name for other in rows}
    missing = [other.name for other in rows if other.name not in row.stacked_under]
    if not missing:
        return "any"
    is_shorter = len(missing) < len(names) / 2
    return f"all but {', '.join(missing)}" if is_shorter else ", ".join(row.stacked_under)


def _cost(cost: Cost) -> str:
    return f"{cost.ratio:g}" if cost.origin == "unit" else f"{cost.ratio:.2f}{_MARKS[cost.origin]}"


def _share(n: int | None, n_base: int) -> str:
    return "" if n is None else f"{n:,} ({100 * n / n_base:.2g} %)"


def _list(settings: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}".strip() for name, value in settings.items()) or "-"
