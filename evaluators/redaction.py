"""Keeps secrets out of what is written: `${NAME}` in urls stands for an environment variable, and text is cleared.

url = expanded("postgresql://searcher:${DB_PASSWORD}@db.example/studies")   # to open it; never to be shown or written
print(redacted(text))                                                       # whatever is shown or written

What counts as a secret: the values of environment variables whose names say so (`HF_TOKEN`, `WANDB_API_KEY`,
`PGPASSWORD`), those that stand for a password in an expanded url or are used as a key, passwords in any url, and texts
that have the form of a well-known token. Shorter ones than `MIN_LENGTH`, and those that are plain words or numbers, are
not looked for outside urls: they would be found, and masked, where they are none.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus

MASK = "***"
MIN_LENGTH = 8
"""Characters of a secret that is looked for in any text."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_KEY$|_PASS$",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[a-z_-]+|[A-Z_]+|[A-Z][a-z]+|[-+0-9.,:]+|[/~.].*", re.DOTALL)
"""Words, numbers and paths: no secrets worth the name, and parts of many texts."""
_USER_PART = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)([^@]*)@")
_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@'\"\\]*:)(?![0-9]*/)([^\s@'\"\\]+)@")
_PARAMETER = re.compile(
    r"([?&](?:password|passwd|pwd|sslpassword|token|access_token|secret|key|api_key)=)"
    r"([^&\s'\"\\]+)",
    re.IGNORECASE,
)
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|sk-[A-Za-z0-9_-]{20,})\b"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]{16,}"
)

_known: set[str] = set()


def expanded(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a url with each `${NAME}` replaced by that environment variable; what it holds is masked from now on.

    In front of an @, where user and password stand, values are quoted as urls want it.

    Raises:
        ValueError: A variable is not set.
    """
    missing = missing_variables(url, environment)
    if missing:
        raise ValueError(f"environment variable {missing[0]} is not set; set it where this runs")

    def value(found: re.Match[str]) -> str:
        return environment[found[1]]

    def quoted(found: re.Match[str]) -> str:
        return quote(environment[found[1]], safe="")

    user = _USER_PART.match(url)
    head = 0 if user is None else user.end()
    text = _VARIABLE.sub(quoted, url[:head]) + _VARIABLE.sub(value, url[head:])
    if text != url:
        for secret in (*_PASSWORD.finditer(text), *_PARAMETER.finditer(text)):
            keep_secret(secret[2])
        if user is not None and ":" in user[2]:
            password = user[2].partition(":")[2]
            keep_secret(_VARIABLE.sub(value, password))
    return text


def missing_variables(url: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names in `${NAME}` that are not set, or empty."""
    return [name for name in _VARIABLE.findall(url) if not environment.get(name)]


def literal_secret(url: str) -> str | None:
    """Return what is wrong with a url in a file that holds a password itself, with the remedy; None if it holds none.

    The answer does not repeat it.
    """
    found = (*_PASSWORD.finditer(url), *_PARAMETER.finditer(url))
    if all(_VARIABLE.sub("", each[2]) == "" for each in found):
        return None
    return (
        "holds a password, which copies of this file would spread; write ${NAME} in its place and set that "
        "environment variable"
    )


def keep_secret(value: str) -> None:
    """Let `redacted` mask a value from now on, wherever it came from."""
    if _is_findable(value):
        _known.add(value)


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return text in which secrets are masked."""
    secrets = frozenset(_known.union(_of_environment(environment)))
    if secrets:
        text = _pattern(secrets).sub(MASK, text)
    if "://" in text:
        text = _PASSWORD.sub(lambda found: f"{found[1]}{_masked(found[2])}@", text)
    if "=" in text:
        text = _PARAMETER.sub(lambda found: f"{found[1]}{_masked(found[2])}", text)
    return _FORMS.sub(MASK, text)


def _masked(password: str) -> str:
    """Return the mask; the name of a variable stays, since it tells nothing and is wanted in copies."""
    return password if _VARIABLE.sub("", password) == "" else MASK


def _of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _SECRET_NAME.search(name) is not None and _is_findable(value):
            yield value
        if "@" in value:  # Perhaps a whole url, such as in DATABASE_URL.
            yield from (found[2] for found in _PASSWORD.finditer(value) if _is_findable(found[2]))


def _is_findable(value: str) -> bool:
    return len(value) >= MIN_LENGTH and _PLAIN.fullmatch(value) is None


@functools.lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    forms = {form for secret in secrets for form in _written(secret)}
    # The longest first: one may be the beginning of another.
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))


def _written(secret: str) -> Iterable[str]:
    """Return how a secret may look in a text: as it is, in JSON, in a url, as Python shows it."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield repr(secret)[1:-1]
