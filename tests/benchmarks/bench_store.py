"""How fast is the stage store? Entries and megabytes per second, and how long a look takes in a large store.

    python tests/benchmarks/bench_store.py [--root FOLDER_OR_URL] [--entries 10000] [--megabytes 256]

Prints one fact a line. The disk's own speed is measured beside it, with plain files, since every commit waits for the
disk about ten times. The store is made in a temporary folder below the root and removed afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from search.store import Entry, StageStore
from search.store.sealed import FileRecord, seal
from search.store.shelf import attempt_path, manifest_path


def digest_of(name: object) -> str:
    """Return a digest for a name."""
    return hashlib.sha256(str(name).encode()).hexdigest()


def seconds_of(action: Callable[[int], object], n_times: int) -> list[float]:
    """Return the wall seconds of each of several calls."""
    found = []
    for number in range(n_times):
        began = time.perf_counter()
        action(number)
        found.append(time.perf_counter() - began)
    return found


def say(what: str, seconds: list[float]) -> None:
    """Print median and 99th percentile in microseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    median = statistics.median(ordered)
    print(f"{what:44} median {1e6 * median:9.0f} us   p99 {1e6 * p99:9.0f} us")


def commit(store: StageStore, digest: str, files: dict[str, bytes]) -> None:
    """Take a lease, write files, store them."""
    lease = store.lease(digest)
    assert lease is not None
    with store.scratch() as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        store.commit(lease, folder, {"seconds": 1.0})


def fill(store: StageStore, n_entries: int) -> list[str]:
    """Put small entries into a store without waiting for the disk; return their digests."""
    data = b"x" * 64
    record = FileRecord(path="w", size=64, sha256=hashlib.sha256(data).hexdigest())
    digests = [digest_of(f"filled {number}") for number in range(n_entries)]
    real_sync = os.fsync
    os.fsync = lambda handle: None
    try:
        for digest in digests:
            entry = Entry(
                digest=digest,
                attempt=uuid.uuid4().hex,
                parent=None,
                needs=(),
                seconds=1.0,
                path_seconds=1.0,
                bytes=64,
                created_at=time.time(),
                files=(record,),
                meta={"record": "x" * 500},
            )
            store._files.replace(f"{attempt_path(digest, entry.attempt)}/w", data)
            store._files.replace(manifest_path(digest), seal(entry))
    finally:
        os.fsync = real_sync
    return digests


def bench_disk(folder: Path, n_bytes: int) -> None:
    """Time plain files that are brought to the disk, as the yardstick."""

    def write(number: int, n_bytes: int = 4096) -> None:
        with open(folder / f"plain{number}", "wb") as file:
            file.write(b"x" * n_bytes)
            file.flush()
            os.fsync(file.fileno())

    say("disk: one 4 kB file with fsync", seconds_of(write, 100))
    (seconds,) = seconds_of(lambda _: write(-1, n_bytes), 1)
    print(f"{'disk: one large file with fsync':44} {n_bytes / 1e6 / seconds:6.0f} MB/s")


def bench(store: StageStore, n_entries: int, n_bytes: int) -> None:
    """Time what workers do, on an empty store and then on a large one."""
    small = {"adapter_model.safetensors": b"x" * 4096, "adapter_config.json": b"{}"}
    took = seconds_of(lambda number: commit(store, digest_of(f"small {number}"), small), 200)
    say("lease, scratch, commit of 2 small files", took)
    print(f"{'':44} {len(took) / sum(took):6.0f} entries/s")
    large = {"model.safetensors": os.urandom(n_bytes)}
    (seconds,) = seconds_of(lambda _: commit(store, digest_of("large"), large), 1)
    print(
        f"{'commit of one large file, writing it included':44} {n_bytes / 1e6 / seconds:6.0f} MB/s"
    )
    fresh = StageStore(store.root) if "://" not in store.root else store
    (seconds,) = seconds_of(lambda _: fresh.fetch(digest_of("large")), 1)
    print(f"{'fetch of it, with checksums':44} {n_bytes / 1e6 / seconds:6.0f} MB/s")
    say("fetch of it, again", seconds_of(lambda _: fresh.fetch(digest_of("large")), 100))
    digests = fill(store, n_entries)
    print(f"-- with {n_entries} further entries")
    step = max(1, n_entries // 2000)
    say("find, stored", seconds_of(lambda n: store.find(digests[n * step % n_entries]), 2000))
    say("find, not stored", seconds_of(lambda n: store.find(digest_of(f"no {n}")), 2000))
    say(
        "fetch of a small entry, with checksums", seconds_of(lambda n: store.fetch(digests[n]), 500)
    )
    say("fetch of a small entry, again", seconds_of(lambda n: store.fetch(digests[n]), 500))
    say("lease and release", seconds_of(lambda n: release(store, digest_of(f"no {n}")), 500))
    held = store.lease(digest_of("held"))
    assert held is not None
    say("lease, held by another", seconds_of(lambda _: store.lease(digest_of("held")), 500))
    say("renew", seconds_of(lambda _: held.renew(), 500))
    scores = {"scores.json": b"x" * 20_000}
    say("put_scores, 20 kB", seconds_of(lambda n: store.put_scores(digests[n], "v1", scores), 200))
    say("scores", seconds_of(lambda n: store.scores(digests[n], "v1"), 200))
    for what, action in (
        ("entries()", lambda _: sum(1 for _ in store.entries())),
        ("gc, dry run, half goes", lambda _: store.gc(32 * n_entries, True, idle_seconds=0)),
        ("verify", lambda _: store.verify()),
        ("gc of 500 entries", lambda _: store.gc(64 * (n_entries - 500), idle_seconds=0)),
    ):
        (seconds,) = seconds_of(action, 1)
        print(f"{what:44} {seconds:6.2f} s")


def release(store: StageStore, digest: str) -> None:
    """Take a lease and give it back."""
    lease = store.lease(digest)
    assert lease is not None
    lease.release()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=tempfile.gettempdir(), help="where to make the store")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=256)
    arguments = parser.parse_args()
    n_bytes = arguments.megabytes * 1_000_000
    if "://" in arguments.root:
        bench(StageStore(f"{arguments.root}/{uuid.uuid4().hex}"), arguments.entries, n_bytes)
        return
    with tempfile.TemporaryDirectory(dir=arguments.root) as folder:
        bench_disk(Path(folder), n_bytes)
        bench(StageStore(Path(folder) / "store"), arguments.entries, n_bytes)


if __name__ == "__main__":
    main()
