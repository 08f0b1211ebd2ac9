"""The stage store: results of stages under their digests, shared by trials, processes, machines and studies."""

from search.store.entry import Entry, Fault
from search.store.errors import Damaged, NotStored, StaleLease, StoreError
from search.store.leases import Lease
from search.store.store import StageStore

__all__ = [
    "Damaged",
    "Entry",
    "Fault",
    "Lease",
    "NotStored",
    "StageStore",
    "StaleLease",
    "StoreError",
]
