"""Refuse to run with a foreign package in the place of ours. Standard library only.

The import packages are called `search`, `spaces` and `evaluators`, and an unrelated distribution on PyPI ships a
package called `spaces` too; so may any folder in the working directory.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from search.errors import ApportionError

PACKAGES = ("spaces", "evaluators")
HOME = Path(__file__).resolve().parent.parent
"""The folder that holds `search`, and must hold the other two."""


_AGAIN = "install apportion again, in its checkout: `pip install -e .`"


class OriginError(ApportionError, ImportError):
    """Python would import another package under one of our names."""


def check_origin(home: Path = HOME) -> None:
    """Check that `spaces` and `evaluators` come from the same folder as `search`.

    Args:
        home: The folder where they belong.

    Raises:
        OriginError: One of them is missing or comes from elsewhere; the message says how to mend that.
    """
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None:
            raise OriginError(f"package {package} is missing beside {home / 'search'}; {_AGAIN}")
        place = _folder(found.origin, found.submodule_search_locations)
        if place != home / package:
            raise OriginError(
                f"package {package} comes from {place}, not from apportion in {home}; "
                f"{_remedy(package, place)}"
            )


def _folder(origin: str | None, locations: list[str] | None) -> Path:
    """Return the folder of a package, or the file of a module."""
    if locations:
        return Path(next(iter(locations))).resolve()
    return Path(origin or "nowhere").resolve()


def _remedy(package: str, place: Path) -> str:
    if {"site-packages", "dist-packages"} & set(place.parts):
        return f"run `pip uninstall -y {package}` and {_AGAIN}"
    return f"rename {place}, or start from another folder"
