"""Optuna's storage: opening it with errors a person can act on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from evaluators.redaction import expanded, redacted
from evaluators.scores import Direction
from search.errors import StudyError
from search.filesystems import network_filesystem
from search.patience import PatientStorage

optuna.logging.set_verbosity(optuna.logging.WARNING)

_OPTUNA_DIRECTIONS = {
    "maximise": optuna.study.StudyDirection.MAXIMIZE,
    "minimise": optuna.study.StudyDirection.MINIMIZE,
}


def database_url(storage: str | None, database: Path, root: Path) -> str:
    """Return the url of a study's storage, to be opened and not shown: the one it names, else SQLite in its folder.

    Args:
        storage: As study.yaml has it; a relative path in an SQLite url starts at `root`.
        database: File in the study's folder.
        root: Folder of the study file.

    Raises:
        StudyError: An environment variable that it names is not set.
    """
    if storage is None:
        # URL.create quotes what would end the path, such as ? and #.
        return URL.create("sqlite", database=str(database.absolute())).render_as_string()
    try:
        storage = expanded(storage)
    except ValueError as error:
        raise StudyError(f"storage: {error}") from None
    try:
        url = make_url(storage)
    except ArgumentError:
        return storage  # open_study says what is wrong with it.
    is_file = url.database and not url.database.startswith((":memory:", "file:"))
    if url.get_backend_name() != "sqlite" or not is_file:
        return storage
    path = root.absolute() / str(url.database)
    return url.set(database=str(path)).render_as_string(hide_password=False)


def open_study(
    url: str,
    name: str,
    objectives: Mapping[str, Direction],
    create: bool,
    fence: Callable[[], None] | None = None,
) -> optuna.Study:
    """Create or load the Optuna study `name`.

    Args:
        url: Of an RDB, as SQLAlchemy writes it.
        name: Of the study.
        objectives: Score to direction; used when creating.
        create: False loads.
        fence: Asked before every change and its commit; raises where another process has the study by now.

    Raises:
        StudyError: The storage cannot be opened, the study is there already (create) or is not (load).
    """
    _refuse_network(url)
    try:
        # Connections that a server has dropped since are noticed when they are taken up.
        storage = PatientStorage(url, engine_kwargs={"pool_pre_ping": True})
        _commit_quickly(storage)
        connect_patiently(storage.engine)
        if fence is not None:
            _fence_off(storage, fence)
        # Whoever has a fence is the only one who writes.
        shown = storage if fence is None else OneWriter(storage)
        if create:
            study = optuna.create_study(
                storage=shown,
                study_name=name,
                directions=[_OPTUNA_DIRECTIONS[d] for d in objectives.values()],
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(objectives))
            return study
        return optuna.load_study(storage=shown, study_name=name)
    except optuna.exceptions.DuplicatedStudyError as error:
        left_over = optuna.load_study(storage=storage, study_name=name)
        if not left_over.get_trials(deepcopy=False):
            return left_over  # An attempt to create it was killed before it had anything in it.
        raise StudyError(
            f"{_without_password(url)}: a study named {name!r} is in this storage already; "
            "resume it or choose another name"
        ) from error
    except KeyError as error:
        raise StudyError(
            f"{_without_password(url)}: no study named {name!r} in this storage; "
            "check `name` and `storage`"
        ) from error
    except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError) as error:
        reason = redacted(str(error).splitlines()[0])
        raise StudyError(
            f"{_without_password(url)}: the storage cannot be opened ({reason}); "
            "check the url, the driver package and the server"
        ) from error


def _refuse_network(url: str) -> None:
    """Refuse a database file where other machines write too.

    Raises:
        StudyError: SQLite would lose data there.
    """
    with suppress(ArgumentError):
        place = make_url(url)
        if place.get_backend_name() != "sqlite" or not place.database:
            return
        kind = network_filesystem(Path(place.database.removeprefix("file:").split("?")[0]))
        if kind is not None:
            raise StudyError(
                f"{place.database}: lies on a network file system ({kind}), where SQLite can lose data; set `storage` "
                "in study.yaml to a PostgreSQL url, or to sqlite:////FILE on a disk of this machine"
            )


class OneWriter(_CachedStorage):
    """Optuna's cache for a process that alone writes: only what it has written itself is read again.

    Optuna reads every trial that has not ended anew whenever anybody looks, and a proposal looks some twenty times.
    With 64 trials in flight that took longer than all else.
    """

    def __init__(self, backend: RDBStorage) -> None:
        """Take the storage; nothing is read yet."""
        super().__init__(backend)
        self._whole: set[int] = set()
        self._changed: set[int] = set()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial."""
        trial_id = int(super().create_new_trial(study_id, template_trial))
        self._changed.add(trial_id)
        return trial_id

    def set_trial_param(self, trial_id: int, *args: Any, **kwargs: Any) -> None:
        """Set a parameter."""
        self._changed.add(trial_id)
        super().set_trial_param(trial_id, *args, **kwargs)

    def set_trial_state_values(self, trial_id: int, *args: Any, **kwargs: Any) -> bool:
        """End a trial, or take it up."""
        self._changed.add(trial_id)
        return bool(super().set_trial_state_values(trial_id, *args, **kwargs))

    def set_trial_intermediate_value(self, trial_id: int, *args: Any, **kwargs: Any) -> None:
        """Report."""
        self._changed.add(trial_id)
        super().set_trial_intermediate_value(trial_id, *args, **kwargs)

    def set_trial_user_attr(self, trial_id: int, *args: Any, **kwargs: Any) -> None:
        """Note something."""
        self._changed.add(trial_id)
        super().set_trial_user_attr(trial_id, *args, **kwargs)

    def set_trial_system_attr(self, trial_id: int, *args: Any, **kwargs: Any) -> None:
        """Note something of Optuna's own, such as a constraint."""
        self._changed.add(trial_id)
        super().set_trial_system_attr(trial_id, *args, **kwargs)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        changed, self._changed = self._changed, set()
        if study_id not in self._whole:
            super()._read_trials_from_remote_storage(study_id)
            self._whole.add(study_id)
            return
        try:
            trials = [self._backend.get_trial(trial_id) for trial_id in sorted(changed)]
        except BaseException:
            self._changed |= changed
            raise
        with self._lock:
            self._add_trials_to_cache(study_id, trials)


def _commit_quickly(storage: RDBStorage) -> None:
    """Let SQLite append to a log instead of syncing two files at every commit; a proposal makes more than ten.

    A killed process loses nothing; a power cut may lose the last commits (https://www.sqlite.org/wal.html), and their
    trials the next launch then takes from their folders or runs again. The log does not work on a network file system,
    which is refused.
    """
    if storage.engine.dialect.name != "sqlite":
        return

    @event.listens_for(storage.engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    # What is open already was opened without.
    storage.engine.dispose()


def connect_patiently(
    engine: Engine, sleep: Callable[[float], object] = time.sleep, longest: float = 300.0
) -> None:
    """Let a storage that was reached once be away for a while: connect again after 1, 2, 4 ... seconds.

    Args:
        engine: Of the storage.
        sleep: Waits so many seconds.
        longest: Seconds after which it is given up; what was finished is in the trials' folders, and a resume tells it.
    """

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        waited, pause = 0.0, 1.0
        while True:
            try:
                return dialect.connect(*arguments, **parameters)
            except dialect.loaded_dbapi.OperationalError:
                if waited + pause > longest:
                    raise
            sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 60.0)


def _fence_off(storage: RDBStorage, fence: Callable[[], None]) -> None:
    """Ask `fence` when a transaction that changes anything begins to do so, and once more when it is committed."""
    changes = "changes"

    @event.listens_for(storage.engine, "before_cursor_execute")
    def before_change(
        connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool
    ) -> None:
        is_change = statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE")
        if is_change and not connection.info.get(changes):
            fence()
            connection.info[changes] = True

    @event.listens_for(storage.engine, "commit")
    def before_commit(connection: Any) -> None:
        if connection.info.pop(changes, False):
            fence()

    @event.listens_for(storage.engine, "rollback")
    def after_rollback(connection: Any) -> None:
        if not connection.invalidated:  # The notes of a lost connection are gone with it.
            connection.info.pop(changes, None)


def _without_password(url: str) -> str:
    try:
        return redacted(make_url(url).render_as_string(hide_password=True))
    except ArgumentError:
        return "storage"
