"""`apportion store ls|verify|gc`: look into a stage store, check every byte of it, make it smaller."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer

from search.cli.output import duration, print_json
from search.messages import value_text
from search.store import Entry, StageStore

EXAMPLES = """\b
Examples:
  apportion store ls results/store
  apportion store verify results/store
  apportion store gc results/store --max-size 20GB --dry-run"""
_LS_EXAMPLES = """\b
Examples:
  apportion store ls results/store
  apportion store ls s3://bucket/store --json"""
_VERIFY_EXAMPLES = """\b
Examples:
  apportion store verify results/store                  # exit code 1 if anything is damaged
  apportion store verify results/store --quarantine     # and keep it from being used"""
_GC_EXAMPLES = """\b
Examples:
  apportion store gc results/store --max-size 20GB --dry-run
  apportion store gc results/store --max-size 500MB"""
_UNITS = {
    "": 1,
    **{f"{name}B": 1000**n for n, name in enumerate(("", "k", "M", "G", "T"))},
    "KB": 1000,
}
_UNITS |= {f"{name}iB": 1024**n for n, name in enumerate("KMGT", 1)}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?i?B?)")

Root = Annotated[str, typer.Argument(help="Folder or url of the store.", metavar="STORE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    name="store",
    help="Look into a stage store, check it, make it smaller.",
    epilog=EXAMPLES,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("ls", epilog=_LS_EXAMPLES)
def list_entries(root: Root, as_json: Json = False) -> None:
    """List the stored stages: digest, size, training time, time since the last use, pins."""
    store = _open(root)
    pinned_by: dict[str, list[str]] = {}
    for name, digests in store.pins().items():
        for digest in digests:
            pinned_by.setdefault(digest, []).append(name)
    rows = []
    now = time.time()
    for entry in store.entries():
        used_at = store.used_at(entry.digest)
        if used_at is not None:  # else it was evicted just now
            idle_seconds = round(max(now - used_at, 0.0), 3)
            rows.append((entry, idle_seconds, pinned_by.get(entry.digest, [])))
    total = sum(entry.bytes for entry, _, _ in rows)
    if as_json:
        print_json(
            {
                "entries": [
                    {
                        **_facts(entry),
                        "idle_seconds": idle_seconds,
                        "pins": pins,
                    }
                    for entry, idle_seconds, pins in rows
                ],
                "bytes": total,
            }
        )
        return
    for entry, idle_seconds, pins in rows:
        note = f"  pinned by {', '.join(pins)}" if pins else ""
        typer.echo(
            f"{entry.digest}  {size_text(entry.bytes):>8}  trained {duration(entry.seconds)}, "
            f"used {duration(idle_seconds)} ago{note}"
        )
    typer.echo(f"{_count(len(rows))}, {size_text(total)}")


@app.command("verify", epilog=_VERIFY_EXAMPLES)
def verify(
    root: Root,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Take what is damaged out of use.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare every byte with its checksum. Exit code 1 if anything is damaged or missing."""
    store = _open(root)
    faults = store.verify(to_quarantine=quarantine)
    if as_json:
        print_json({"faults": [fault.model_dump() for fault in faults]})
    else:
        for fault in faults:
            typer.echo(str(fault))
        n_entries = sum(1 for _ in store.entries())
        found = f"{len(faults)} faults" if len(faults) != 1 else "1 fault"
        typer.echo(f"{_count(n_entries)}, {found if faults else 'nothing wrong'}")
    if faults:
        raise typer.Exit(1)


@app.command("gc", epilog=_GC_EXAMPLES)
def collect(
    root: Root,
    max_size: Annotated[
        str, typer.Option("--max-size", help="What all entries may take: 20GB, 500MB, bytes.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing.")] = False,
    idle_seconds: Annotated[
        float, typer.Option(help="Keep what was used in the last so many seconds.", min=0)
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """Evict what is cheapest to train again per byte and least used; never what is pinned, needed or in use."""
    max_bytes = parse_size(max_size)
    store = _open(root)
    gone = store.gc(max_bytes, dry_run, idle_seconds=idle_seconds)
    names = {entry.digest for entry in gone}
    left = [entry for entry in store.entries() if entry.digest not in names]
    left_bytes = sum(entry.bytes for entry in left)
    if as_json:
        print_json(
            {"evicted": [_facts(entry) for entry in gone], "dry_run": dry_run, "bytes": left_bytes}
        )
        return
    for entry in gone:
        typer.echo(
            f"{entry.digest}  {size_text(entry.bytes):>8}  trained {duration(entry.seconds)}"
        )
    verb = "would go" if dry_run else "evicted"
    typer.echo(f"{_count(len(gone))} {verb}, {_count(len(left))} of {size_text(left_bytes)} left")
    if left_bytes > max_bytes:
        typer.echo("what is left is pinned, needed by what is left, or in use")


def parse_size(text: str) -> int:
    """Return a size such as `20GB`, `1.5 GiB` or `1000` in bytes; G is 10^9, Gi is 2^30.

    Raises:
        typer.BadParameter: It is none.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2] if match is not None else ""
    if unit and not unit.endswith("B"):
        unit += "B"
    if match is None or unit not in _UNITS:
        raise typer.BadParameter(f"{value_text(text)} is no size; write 20GB, 500MB or bytes")
    return int(float(match[1]) * _UNITS[unit])


def size_text(n_bytes: int) -> str:
    """Return bytes as people say them: `12 kB`, `3.4 GB`."""
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def _open(root: str) -> StageStore:
    return StageStore(root, may_create=False)


def _count(n_entries: int) -> str:
    return "1 entry" if n_entries == 1 else f"{n_entries} entries"


def _facts(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(
        mode="json", include={"digest", "parent", "needs", "seconds", "bytes", "created_at", "meta"}
    )
