"""Every file of 50 entries cut short or with one bit flipped: found by verify, found by use, never returned.

First entries of known content, then stages that a study has trained and trains again.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import pytest
from killing import write_study
from store_tools import content, digest_of, put

from search.folders import TrialFolder
from search.lab import Lab
from search.records import Proposal, TrialRecord
from search.store import Damaged, Entry, NotStored, StageStore
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.recipe import Recipe
from spaces.space import Space

N_ENTRIES = 50
DOSES = (150, 200, 250, 300, 350)


def files_of(number: int) -> dict[str, bytes]:
    numbers = random.Random(number)
    return {
        "adapter_model.safetensors": numbers.randbytes(numbers.randint(1, 4000)),
        "adapter_config.json": b'{"r": %d}' % number,
        "head/part-1": numbers.randbytes(17),
    }


def cut(data: bytes, numbers: random.Random) -> bytes:
    return data[: numbers.randrange(len(data))]


def flip(data: bytes, numbers: random.Random) -> bytes:
    bit = numbers.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    store = StageStore(tmp_path)
    for number in range(N_ENTRIES):
        put(store, digest_of(number), files_of(number))
        store.put_scores(digest_of(number), "v1", {"scores.json": b"[%d]" % number})
    return store


def damaged_files(root: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Return digest and path of every file below a folder of the store."""
    for path in sorted((root / kind).rglob("*")):
        if path.is_file():
            yield path.relative_to(root).parts[2], path


@pytest.mark.parametrize("first", [0, 1])
def test_every_damaged_file_is_found_each_time_and_rebuilt(store: StageStore, first: int) -> None:
    numbers = random.Random(7)
    found = list(damaged_files(Path(store.root), "entries"))
    assert len(found) == 4 * N_ENTRIES  # three files and the manifest
    for turn, (digest, path) in enumerate(found):
        damage = (cut, flip)[(turn + first) % 2]
        path = next(place for place in [path, *_same_name(store, digest, path)] if place.exists())
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(damage(whole, numbers))
        faults = store.verify([digest])
        assert [fault.digest for fault in faults] == [digest], path
        fresh = StageStore(store.root)  # as in a process that has not checked it yet
        if path.name == "manifest.json":
            assert fresh.find(digest) is None
            assert digest not in {entry.digest for entry in fresh.entries()}
        with pytest.raises(Damaged, match="in quarantine"):
            fresh.fetch(digest)
        assert fresh.find(digest) is None
        with pytest.raises(NotStored):
            fresh.fetch(digest)
        assert fresh.verify([digest]) == []
        number = next(n for n in range(N_ENTRIES) if digest_of(n) == digest)
        put(fresh, digest, files_of(number))
        assert content(StageStore(store.root).fetch(digest)) == files_of(number)
    assert store.verify() == []


def _same_name(store: StageStore, digest: str, path: Path) -> Iterator[Path]:
    """Return where a file is after its entry was rebuilt: in the folder of another attempt."""
    entry = store.find(digest)
    assert entry is not None
    parts = path.relative_to(store.root).parts
    yield Path(store.root, *parts[:3], entry.attempt, *parts[4:])


@pytest.mark.parametrize("damage", [cut, flip])
def test_every_damaged_score_is_found_and_not_returned(
    store: StageStore, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    numbers = random.Random(8)
    for digest, path in damaged_files(Path(store.root), "scores"):
        path.write_bytes(damage(path.read_bytes(), numbers))
        assert [fault.digest for fault in store.verify([digest])] == [digest]
        assert store.scores(digest, "v1") is None
        assert store.verify([digest]) == []
        store.put_scores(digest, "v1", {"scores.json": b"again"})
    assert store.verify() == []


def test_every_byte_of_a_manifest_and_of_a_score_pack_counts(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    digest = digest_of("a")
    put(store, digest, {"x": b"12"})
    store.put_scores(digest, "v1", {"s": b"12"})
    for path in (
        next(tmp_path.rglob("manifest.json")),
        next(tmp_path.rglob("v1.pack")),
    ):
        whole = path.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            path.write_bytes(bytes(changed))
            assert len(store.verify([digest])) == 1, place
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            assert len(store.verify([digest])) == 1, end
        path.write_bytes(whole + b"\n")
        assert len(store.verify([digest])) == 1
        path.write_bytes(whole)
    assert store.verify() == []


@pytest.mark.parametrize("gone", ["manifest", "file", "folder"])
def test_what_is_missing_is_never_half_there(tmp_path: Path, gone: str) -> None:
    store = StageStore(tmp_path)
    digest = digest_of("a")
    entry = put(store, digest, files_of(1))
    folder = store.fetch(digest)
    if gone == "manifest":
        (folder.parent / "manifest.json").unlink()
        with pytest.raises(NotStored):
            store.fetch(digest)
    else:
        for path in sorted(folder.rglob("*"), reverse=True):
            if gone == "folder" or path.name == "part-1":
                path.rmdir() if path.is_dir() else path.unlink()
        assert len(store.verify()) == (1 if gone == "file" else 3)
        with pytest.raises(Damaged, match="is missing"):
            store.fetch(digest)
    again = put(store, digest, files_of(1))
    assert again.attempt != entry.attempt
    assert content(store.fetch(digest)) == files_of(1)
    store.gc(10**9)
    assert content(store.fetch(digest)) == files_of(1)
    assert len(list(tmp_path.rglob("part-1"))) == 1


def test_a_slow_finder_of_damage_does_not_touch_what_was_rebuilt(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    digest = digest_of("a")
    old: Entry = put(store, digest, files_of(1))
    store.gc(0, idle_seconds=0)
    new = put(store, digest, files_of(1))
    shelf = store._shelf  # the second half of a fetch that began before the rebuild
    shelf.quarantine(digest, old.attempt)
    shelf.quarantine(digest, None)
    assert store.find(digest) == new
    assert content(store.fetch(digest)) == files_of(1)


def test_verify_takes_what_is_damaged_out_of_use_when_asked(store: StageStore) -> None:
    a, b = digest_of(0), digest_of(1)
    weights = store.fetch(a) / "head" / "part-1"
    weights.unlink()
    pack = next((Path(store.root) / "scores" / b[:2] / b).iterdir())
    pack.write_bytes(b"")
    assert {fault.digest for fault in store.verify()} == {a, b}
    assert store.find(a) is not None
    assert len(store.verify(to_quarantine=True)) == 2
    assert store.find(a) is None
    assert store.find(b) is not None
    assert store.verify() == []
    kept = [path.name for path in (Path(store.root) / "quarantine").rglob("*") if path.is_file()]
    assert {"manifest.json", "adapter_config.json", "v1.pack"} <= set(kept)


def test_an_entry_whose_need_is_missing_is_told_and_stays(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    a, b = digest_of("a"), digest_of("b")
    put(store, b, needs=[a])
    (fault,) = store.verify(to_quarantine=True)
    assert str(fault).endswith(f"needs {a}, which is not stored; train that stage again")
    assert store.find(b) is not None
    put(store, a)
    assert store.verify() == []


class TrainedStages:
    """A study's recipes, trained and scored in this process until so many stages are stored."""

    def __init__(self, folder: Path, n_stages: int) -> None:
        doses = {"{choice: [150, 300]}": f"{{choice: {list(DOSES)}}}"}
        study = write_study(folder / "study", 1, doses)
        spec = load_study(study)
        self.folder = folder
        self.root = str(folder / "store")
        self._lab = Lab.load(spec, study.parent, StageStore(self.root))
        self._n_trials = 0
        self.n_trained_again = 0
        self.by_digest: dict[str, tuple[Recipe, TrialRecord]] = {}
        """The recipe that ends with a stage, and the record of its trial."""
        space = Space(spec.influences, spec.order)
        for dose, order in product(DOSES, permutations(("tone", "form", "taste"))):
            params = space.encode(order, {"tone.dose_tokens": dose})
            recipe = space.decode(params)
            for n in range(1, len(order) + 1):
                record = self.run(recipe.prefix(n))
                self.by_digest.setdefault(record.stages[-1].digest, (recipe.prefix(n), record))
                if len(self.by_digest) == n_stages:
                    return

    def run(self, recipe: Recipe) -> TrialRecord:
        """Train and score a recipe as in a process that has checked nothing yet."""
        lab = replace(self._lab, store=StageStore(self.root))
        folder = TrialFolder(self.folder / f"trials/{self._n_trials:04d}")
        trial = TrialRun(lab, folder, Proposal(self._n_trials, {}, recipe, None))
        self._n_trials += 1
        while not trial.step():
            pass
        assert trial.record.state == "COMPLETE"
        return trial.record

    def forget_scores(self, digest: str) -> None:
        """Have the model measured by the next one who asks, so that its weights are needed."""
        shutil.rmtree(Path(self.root, "scores", digest[:2], digest))


def check_damage(stages: TrainedStages, path: Path, damage: Callable[..., bytes]) -> None:
    """Damage one file of a stage; verify and the next trial find it, and that trial puts it right."""
    store = StageStore(stages.root)
    digest = path.relative_to(stages.root).parts[2]
    recipe, before = stages.by_digest[digest]
    whole = content(store.fetch(digest))
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(damage(path.read_bytes(), random.Random(str(path.name) + digest)))
    path.chmod(mode)
    faults = store.verify()
    # Those that build on it are told as well when its manifest is gone.
    assert {fault.digest for fault in faults if "needs" not in fault.reason} == {digest}
    stages.forget_scores(digest)
    after = stages.run(recipe)
    assert [stage.is_stored for stage in after.stages] == [True] * (len(after.stages) - 1) + [False]
    assert after.stages[-1].loss_by_step == before.stages[-1].loss_by_step
    assert [b.scores for b in after.boundaries] == [b.scores for b in before.boundaries]
    assert not after.boundaries[-1].is_stored
    mended = StageStore(stages.root)
    assert mended.verify() == []
    assert content(mended.fetch(digest)) == whole
    stages.n_trained_again += 1
    stages.forget_scores(digest)
    assert all(stage.is_stored for stage in stages.run(recipe).stages)


def files_of_stage(store: StageStore, digest: str) -> list[Path]:
    """Return the manifest and the files that it names."""
    entry = store.find(digest)
    assert entry is not None
    folder = Path(store.root, "entries", digest[:2], digest)
    return [folder / "manifest.json", *sorted((folder / entry.attempt).iterdir())]


def damage_stages(folder: Path, n_stages: int) -> int:
    """Damage every file of so many trained stages, each in both ways; returns how often."""
    stages = TrainedStages(folder, n_stages)
    store = StageStore(stages.root)
    digests = [entry.digest for entry in store.entries()]
    assert sorted(digests) == sorted(stages.by_digest)
    assert len(digests) == n_stages
    assert {len(files_of_stage(store, digest)) for digest in digests} == {2}
    for digest, damage, place in product(digests, (cut, flip), (0, 1)):
        check_damage(stages, files_of_stage(store, digest)[place], damage)
    return stages.n_trained_again


@pytest.mark.slow
def test_every_damaged_file_of_a_trained_stage_is_found_and_trained_again(tmp_path: Path) -> None:
    assert damage_stages(tmp_path, 4) == 4 * 2 * 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_damaged_file_of_50_trained_stages_is_found_and_trained_again(tmp_path: Path) -> None:
    n_damaged = damage_stages(tmp_path, N_ENTRIES)
    print(f"\n{n_damaged} damaged files of {N_ENTRIES} trained stages, all found and trained again")
    assert n_damaged == N_ENTRIES * 2 * 2
