"""The folder of a study and of each trial: what is where, read and written whole. No torch, no Ray, no Optuna.

results/<study>/
  study.yaml     the study file as it was given, comments and all
  study.json     a StudyFile: provenance, launches, budget as extended
  study.db       Optuna's storage, unless the study names another
  store/         results of stages, unless the study names another place
  trials/<number>/...    see search.records
  confirmation/          what `apportion confirm` leaves; no part of the search
    confirmation.json    see search.confirmation.records
    <number>/<seed>/     a replicate: trial <number>'s recipe with another seed, in the form of a trial's folder
  report/
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from evaluators.redaction import expanded, redacted
from evaluators.scores import Item, Record
from search.errors import StudyError
from search.outcomes import Failure
from search.records import Proposal, TrialRecord
from search.spec import BudgetSpec, StudySpec
from search.trial_log import TrialLog, older

MAX_RECORD_BYTES = 64 * 1024**2
"""Longest study.json, trial.json or other record in bytes; a trial of many stages takes some hundred KiB."""
_UMASK = os.umask(0)
os.umask(_UMASK)  # It can only be read by setting it.


class Launch(Record):
    """One run or resume of a study."""

    command: str
    """As typed."""
    started_at: str
    """UTC, ISO 8601."""
    wall_seconds: float = 0.0
    """Seconds until the last thing that happened; kept up to date, so a killed launch counts too."""
    ended: str | None = None
    """How it ended; None while it runs or when it was killed."""


class StudyFile(Record):
    """What is known about a study beside its spec and its trials."""

    root: str
    """Folder of the study file it was made from; relative paths in study.yaml start there."""
    created_at: str
    """UTC, ISO 8601."""
    study_hash: str
    """SHA-256 of the resolved study, first 16 hex digits."""
    budget: BudgetSpec
    """The study's own, or as extended by resume."""
    launches: tuple[Launch, ...] = ()
    """In order."""
    provenance: dict[str, Any] = Field(default={})
    """Commit, versions, machine: see search.provenance."""
    warnings: tuple[str, ...] = ()
    """What `check` warned of when the study was made, such as rows that are trained on and measured by permission."""


class StudyFolder:
    """Paths of one study's results, and reading and writing them."""

    def __init__(self, path: Path, fence: Callable[[], None] | None = None) -> None:
        """Take the folder.

        Args:
            path: Such as results/<study>.
            fence: Asked before every write of the study and its trials; raises where another process has them by now.
        """
        self.path = path.resolve()
        self._fence = fence
        self.study_yaml = self.path / "study.yaml"
        self.study_json = self.path / "study.json"
        self.database = self.path / "study.db"
        self.trials = self.path / "trials"
        self.report = self.path / "report"
        self.confirmation = self.path / "confirmation"
        self.confirmation_json = self.confirmation / "confirmation.json"

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            StudyError: It cannot be made.
        """
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"{self.path}: cannot be made ({error.strerror}); give another --results"
            ) from error

    def check_new(self) -> None:
        """Make sure that no study is here; remove what an attempt left that was killed before there was one.

        Raises:
            StudyError: There is one.
        """
        if self.study_json.exists():
            raise StudyError(
                f"{self.path}: a study is there already; continue it with "
                f"`apportion resume {shlex.quote(_shown(self.path))}`, or give the new one another name"
            )
        for path in self.path.glob(f"{self.database.name}*"):
            path.unlink()
        for path in self.path.glob(".study.*"):
            path.unlink()

    def write_study(self, text: str) -> None:
        """Write study.yaml whole."""
        write_whole(self.study_yaml, text)

    def store_root(self, spec: StudySpec, root: Path) -> str | None:
        """Return where the study keeps results of stages, as a path or url; None if it keeps none."""
        if not spec.store.enabled:
            return None
        if spec.store.path is None:
            return str(self.path / "store")
        return store_place(spec.store.path, root)

    def read_file(self) -> StudyFile:
        """Read study.json.

        Raises:
            StudyError: There is no study in this folder, or its file is not readable.
        """
        if not self.study_json.is_file():
            raise StudyError(
                f"{_shown(self.path)}: no study here (study.json is missing); "
                "give a folder such as results/<study>"
            )
        try:
            return StudyFile.model_validate_json(read_record_text(self.study_json))
        except (ValidationError, UnicodeDecodeError) as error:
            raise StudyError(
                f"{self.study_json}: not a study file of this version; restore it from a copy"
            ) from error

    def write_file(self, file: StudyFile) -> None:
        """Write study.json whole."""
        if self._fence is not None:
            self._fence()
        write_whole(self.study_json, file.model_dump_json(indent=2) + "\n")

    def trial(self, number: int) -> TrialFolder:
        """Return the folder of one trial; it need not exist yet."""
        return TrialFolder(self.trials / f"{number:04d}", self._fence)

    def replicate(self, number: int, seed: int) -> TrialFolder:
        """Return the folder of one replicate of a trial; it need not exist yet."""
        return TrialFolder(self.confirmation / f"{number:04d}" / str(seed), self._fence)

    def replicate_folders(self) -> list[TrialFolder]:
        """Return the folders of all replicates, by trial and seed."""
        found = [
            (int(path.parent.name), int(path.name))
            for path in self.confirmation.glob("[0-9]*/[0-9]*")
            if path.name.isdigit() and path.parent.name.isdigit()
        ]
        return [self.replicate(number, seed) for number, seed in sorted(found)]

    def replicate_records(self) -> list[TrialRecord]:
        """Return the records of all replicates that can be read; a damaged one is trained anew by `confirm`."""
        found = []
        for folder in self.replicate_folders():
            with suppress(StudyError):
                found.append(folder.read_record())
        return [record for record in found if record is not None]

    def record_or_none(self, number: int) -> TrialRecord | None:
        """Return the record of a trial, or None if it has none that can be read."""
        try:
            return self.trial(number).read_record()
        except StudyError:
            return None

    def records(self) -> list[TrialRecord]:
        """Return the records of all trials that have one, by number."""
        numbers = sorted(
            int(path.name) for path in self.trials.glob("[0-9]*") if path.name.isdigit()
        )
        found = (self.trial(number).read_record() for number in numbers)
        return [record for record in found if record is not None]


class TrialFolder:
    """Paths of one trial's results, and reading and writing them."""

    def __init__(self, path: Path, fence: Callable[[], None] | None = None) -> None:
        """Take the folder; `fence` as of `StudyFolder`."""
        self.path = path
        self.record = path / "trial.json"
        self.recipe = path / "recipe.yaml"
        self.traceback = path / "traceback.txt"
        self.hang = path / "hang.txt"
        self.log = path / "log.jsonl"
        self._fence = fence or (lambda: None)

    def clear(self) -> None:
        """Remove what an interrupted attempt left behind, all but its log, and make the folder."""
        self._fence()
        self.path.mkdir(parents=True, exist_ok=True)
        for each in self.path.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each not in (self.log, older(self.log)):
                each.unlink()

    def write_record(self, record: TrialRecord) -> None:
        """Write trial.json whole."""
        self._fence()
        write_whole(self.record, record.model_dump_json(indent=1) + "\n")

    def read_record(self) -> TrialRecord | None:
        """Return the record, or None if the trial has none yet.

        Raises:
            StudyError: The file is damaged.
        """
        if not self.record.is_file():
            return None
        try:
            return TrialRecord.model_validate_json(read_record_text(self.record))
        except (ValidationError, UnicodeDecodeError) as error:
            raise StudyError(
                f"{self.record}: damaged; remove its folder to train the trial again"
            ) from error

    def write_traceback(self, text: str) -> None:
        """Write where an error came from."""
        self._fence()
        write_whole(self.traceback, text)

    @property
    def selection(self) -> Path:
        """What the suite says of the last model on rows of the selection, with its items; replicates alone have it."""
        return self.path / "selection.json"

    def write_selection(self, text: str) -> None:
        """Write what the suite says on rows of the selection whole."""
        self._fence()
        write_whole(self.selection, text)

    def items_file(self, n_stages: int, holdout: bool) -> Path:
        """Return the file of per-item values at a boundary."""
        name = "holdout.jsonl" if holdout else "items.jsonl"
        return self.path / "boundaries" / str(n_stages) / name

    def write_items(self, n_stages: int, holdout: bool, items: Iterable[Item]) -> None:
        """Write the items of one boundary whole, one a line."""
        self._fence()
        path = self.items_file(n_stages, holdout)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(item.model_dump_json() + "\n" for item in items))

    def write_screening_items(self, n_stages: int, items: Iterable[Item]) -> None:
        """Write what a model said of the first items alone, one a line."""
        path = self.items_file(n_stages, holdout=False).with_name("screening.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(item.model_dump_json() + "\n" for item in items))

    def read_items(self, n_stages: int, holdout: bool) -> Iterator[Item]:
        """Yield the items of one boundary; none if they were not written."""
        path = self.items_file(n_stages, holdout)
        if path.is_file():
            with path.open() as lines:
                for line in lines:
                    yield Item.model_validate_json(line)


def store_place(path: str, root: Path) -> str:
    """Return a stage store's folder or url, to be opened and never to be shown: variables are put in.

    Args:
        path: As a file says it.
        root: Where relative paths start.

    Raises:
        StudyError: An environment variable is not set.
    """
    try:
        place = expanded(path)
    except ValueError as error:
        raise StudyError(f"store.path {path}: {error}") from None
    return place if "://" in place else str(root / place)


def write_failure(
    folder: TrialFolder, proposal: Proposal, spec: StudySpec, failure: Failure
) -> TrialRecord:
    """Record that a trial failed outside its stages, keeping what its folder has."""
    record = folder.read_record() or TrialRecord(
        number=proposal.number,
        state="RUNNING",
        params=proposal.params,
        recipe=proposal.recipe,
        baseline=proposal.baseline,
        seed=spec.sampler.seed,
        started_at=utc_now(),
    )
    ended = {
        "state": "FAIL",
        "reason": failure.reason,
        "failure": failure,
        "finished_at": failure.at,
    }
    seconds = record.seconds
    unknown = max(0.0, failure.seconds - seconds.total)
    ended["seconds"] = seconds.model_copy(update={"rest": round(seconds.rest + unknown, 3)})
    record = record.model_copy(update=ended)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_record(record)
    TrialLog(folder.log).end(record)
    return record


def read_record_text(path: Path) -> str:
    """Return the text of a file that this package wrote.

    Raises:
        StudyError: It is far longer than any such file.
        UnicodeDecodeError: It is not UTF-8.
    """
    with path.open("rb") as stream:
        raw = stream.read(MAX_RECORD_BYTES + 1)
    if len(raw) > MAX_RECORD_BYTES:
        mib = MAX_RECORD_BYTES // 2**20
        raise StudyError(f"{path}: is longer than {mib} MiB, and so no record; remove it")
    return raw.decode()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one, never a part; safe against a crash.

    Secrets in the text are masked.
    """
    write_whole_bytes(path, redacted(text).encode("utf-8", errors="backslashreplace"))


def write_whole_bytes(path: Path, content: bytes) -> None:
    """Write a file that is no text, as `write_whole` does; nothing is masked."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o666 & ~_UMASK)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def utc_now() -> str:
    """Return the time in UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_json(data: Any) -> str:
    """Return JSON for machines: sorted keys, no NaN."""
    return json.dumps(data, sort_keys=True, allow_nan=False)


def _shown(path: Path) -> str:
    """Return a path as a person would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (
        ValueError,
        FileNotFoundError,
    ):  # elsewhere; or this folder is gone, as a job's is at its end
        return str(path)
