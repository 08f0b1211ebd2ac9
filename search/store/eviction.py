"""What goes when a store is too large: what is cheapest to rebuild per byte and least used, and nothing that is needed.

The worth of an entry is

    seconds to rebuild it / its bytes / (seconds since its last use + one hour)

where the seconds to rebuild it are its own and those of the stages before it that are not stored. The entry of the
lowest worth goes first; its children are then worth more. An entry stays while it is pinned, the ancestor of a pinned
one, needed by one that stays, or in use. Scores stay: they are small, and re-measuring takes a model.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping

from search.store.entry import Entry

_FRESH_SECONDS = 3600.0


def with_ancestors(digests: Iterable[str], entries: Mapping[str, Entry]) -> set[str]:
    """Return digests with all parents, as far as they are stored. What these need stays because they do."""
    found: set[str] = set()
    for digest in digests:
        above: str | None = digest
        while above is not None and above in entries and above not in found:
            found.add(above)
            above = entries[above].parent
    return found


def worth(entry: Entry, rebuild_seconds: float, idle_seconds: float) -> float:
    """Return what a byte of an entry is worth, in seconds of training per byte and second unused."""
    return rebuild_seconds / max(entry.bytes, 1) / (max(idle_seconds, 0.0) + _FRESH_SECONDS)


def eviction_order(
    entries: Mapping[str, Entry], kept: Collection[str], idle_seconds: Mapping[str, float]
) -> Iterator[Entry]:
    """Return the entries that may go, the least worth first; each as if all before it had gone.

    Args:
        entries: All that is stored, by digest.
        kept: Digests that may not go.
        idle_seconds: Seconds since the last use of each.
    """
    stored = set(entries)
    needed_by = {digest: 0 for digest in entries}
    for entry in entries.values():
        for needed in entry.needs:
            if needed in needed_by:
                needed_by[needed] += 1

    def current(entry: Entry) -> tuple[float, str]:
        rebuild = _rebuild_seconds(entry, entries, stored)
        return worth(entry, rebuild, idle_seconds[entry.digest]), entry.digest

    heap = [
        current(entry)
        for digest, entry in entries.items()
        if needed_by[digest] == 0 and digest not in kept
    ]
    heapq.heapify(heap)
    while heap:
        _, digest = top = heapq.heappop(heap)
        entry = entries[digest]
        now = current(entry)
        if now > top:  # an ancestor has gone since: it is worth more
            heapq.heappush(heap, now)
            continue
        yield entry
        stored.discard(digest)
        for needed in entry.needs:
            if needed in needed_by:
                needed_by[needed] -= 1
                if needed_by[needed] == 0 and needed not in kept:
                    heapq.heappush(heap, current(entries[needed]))


def _rebuild_seconds(entry: Entry, entries: Mapping[str, Entry], stored: Collection[str]) -> float:
    """Return the training seconds between the nearest stored ancestor and an entry."""
    parent = entry.parent
    seen = {entry.digest}
    while parent is not None and parent not in stored and parent not in seen:
        seen.add(parent)
        known = entries.get(parent)
        if known is None:  # it went long ago, and its own parents are unknown
            return entry.path_seconds
        parent = known.parent
    before = entries[parent].path_seconds if parent is not None and parent in stored else 0.0
    return max(entry.path_seconds - before, entry.seconds)
