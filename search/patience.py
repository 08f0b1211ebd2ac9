"""A storage that repeats what a lost connection cut short: right for a single writer, as a study's driver is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import DBAPIError

_REPEATED = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
)
"""What Optuna's cache asks of a storage."""
MAX_LOST = 5
"""Connections in a row that one call may lose."""


class PatientStorage(RDBStorage):
    """Optuna's storage, whose calls are made once more when their connection is lost; a new one is waited for."""

    _is_inside = False


def _repeated(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        if self._is_inside:
            return method(self, *args, **kwargs)
        self._is_inside = True
        try:
            return _carried_out(self, name, method, args, kwargs)
        finally:
            self._is_inside = False

    return call


def _carried_out(
    storage: PatientStorage, name: str, method: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Make a call, and again while its connection is lost; one may have been carried out although nobody heard."""
    for n_lost in range(MAX_LOST + 1):
        try:
            if n_lost and name == "set_trial_state_values":
                return _state_set(storage, *args, **kwargs)
            return method(storage, *args, **kwargs)
        except StorageInternalError as error:
            if n_lost == MAX_LOST or not is_lost_connection(error):
                raise
    raise AssertionError


def _state_set(
    storage: PatientStorage, trial_id: int, state: TrialState, values: Any = None
) -> bool:
    """Set a trial's state, unless it is as it should be."""
    if storage.get_trial(trial_id).state == state != TrialState.WAITING:
        return True
    return bool(RDBStorage.set_trial_state_values(storage, trial_id, state, values))


def is_lost_connection(error: BaseException) -> bool:
    """Return whether a storage failed since its server went away, and not since it was asked something wrong."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


for _name in _REPEATED:
    setattr(PatientStorage, _name, _repeated(_name))
