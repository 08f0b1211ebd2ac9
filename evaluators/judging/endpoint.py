"""Endpoint: one server of chat completions, asked with time-outs, retries, a limit of requests at once, and a cache."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluators.judging.cache import AnswerCache, Kept
from evaluators.judging.questions import Answer, Body, read_answer
from evaluators.judging.spec import EndpointSpec
from evaluators.pulse import beat
from evaluators.redaction import keep_secret, redacted

MAX_BYTES = 2**20
"""Longest response."""
FIRST_WAIT_SECONDS = 0.5
GIVE_UP_AFTER = 3
"""Questions in a row that fail in spite of all retries; the rest is then not asked."""
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class Verdict(NamedTuple):
    """What came of one question."""

    answer: Answer | None
    """None where there is none."""
    fault: str | None
    """Why not, one line."""
    n_requests: int
    """Requests sent for it, also long ago where the answer was kept."""
    tokens_in: int
    tokens_out: int
    """As the server counts them; 0 where it does not."""


class _RequestError(Exception):
    """A request failed."""

    def __init__(self, text: str, *, can_retry: bool, wait_seconds: float | None = None) -> None:
        super().__init__(text)
        self.can_retry = can_retry
        self.wait_seconds = wait_seconds


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Response(BaseModel):
    model_config = ConfigDict(strict=True)

    choices: tuple[_Choice, ...] = Field(min_length=1)
    usage: _Usage | None = None


class Endpoint:
    """Asks questions, each once; for one measurement.

    Args:
        spec: Where, and how patiently.
        cache: Where answers are kept.
        environment: Holds the key.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        cache: AnswerCache,
        environment: Mapping[str, str] = os.environ,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._spec, self._cache, self._sleep = spec, cache, sleep
        self._key, self._stopped = _key(spec, environment)
        if self._key is not None:
            keep_secret(self._key)
        self._n_failed_in_a_row = 0
        self._lock = threading.Lock()

    def ask(self, questions: Mapping[str, Body], kind: type[Answer]) -> dict[str, Verdict]:
        """Return the verdict on each question, by name. What was answered before is not asked again."""
        by_digest: dict[str, Body] = {}
        digests = {}
        for name, body in questions.items():
            digests[name] = self._cache.digest(self._spec.url, body)
            by_digest[digests[name]] = body
        found = {
            digest: verdict
            for digest in by_digest
            if (verdict := self._kept(digest, kind)) is not None
        }
        new = [digest for digest in by_digest if digest not in found]
        if new:
            found |= self._ask_new({digest: by_digest[digest] for digest in new}, kind)
        return {name: found[digest] for name, digest in digests.items()}

    def _kept(self, digest: str, kind: type[Answer]) -> Verdict | None:
        kept = self._cache.read(digest)
        if kept is None:
            return None
        try:
            answer = read_answer(kept.text, kind)
        except ValueError:
            return None
        return Verdict(answer, None, kept.n_requests, kept.tokens_in, kept.tokens_out)

    def _ask_new(self, bodies: Mapping[str, Body], kind: type[Answer]) -> dict[str, Verdict]:
        # A proxy of the environment must not get what is meant for this machine.
        client = httpx2.Client(
            timeout=self._spec.timeout_seconds,
            follow_redirects=False,  # another server would get the key
            trust_env=not self._spec.is_local,
        )
        pool = ThreadPoolExecutor(self._spec.concurrent_requests, thread_name_prefix="judge")
        try:
            verdicts = pool.map(
                lambda digest: self._one(client, digest, bodies[digest], kind), bodies
            )
            return dict(zip(bodies, verdicts, strict=True))
        except BaseException:
            self._stopped = "interrupted"
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            client.close()

    def _one(self, client: httpx2.Client, digest: str, body: Body, kind: type[Answer]) -> Verdict:
        n_requests = tokens_in = tokens_out = 0
        while True:
            if self._stopped is not None:
                return Verdict(None, self._stopped, n_requests, 0, 0)
            n_requests += 1
            beat()
            try:
                text, usage = self._request(client, body)
                tokens_in, tokens_out = usage.prompt_tokens, usage.completion_tokens
                answer = _answer(text, kind)
            except _RequestError as fault:
                if fault.can_retry and n_requests <= self._spec.retries:
                    self._sleep(self._wait(digest, n_requests, fault.wait_seconds))
                    continue
                self._note_failure(str(fault), fault.can_retry)
                return Verdict(None, str(fault), n_requests, tokens_in, tokens_out)
            self._n_failed_in_a_row = 0
            self._cache.write(
                digest,
                Kept(text=text, n_requests=n_requests, tokens_in=tokens_in, tokens_out=tokens_out),
            )
            return Verdict(answer, None, n_requests, tokens_in, tokens_out)

    def _wait(self, digest: str, n_requests: int, asked: float | None) -> float:
        seconds = FIRST_WAIT_SECONDS * 2.0 ** (n_requests - 1)
        # Between half and all of it, so that those who failed together do not come back together.
        share = int(hashlib.sha256(f"{digest}{n_requests}".encode()).hexdigest()[:8], 16) / 2**32
        return min(self._spec.max_wait_seconds, max(asked or 0.0, seconds * (0.5 + share / 2)))

    def _note_failure(self, text: str, can_retry: bool) -> None:
        """Ask no more where asking is in vain: retries were used up again and again."""
        if not can_retry:
            return
        with self._lock:
            self._n_failed_in_a_row += 1
            if self._n_failed_in_a_row >= GIVE_UP_AFTER:
                self._stopped = self._stopped or text

    def _request(self, client: httpx2.Client, body: Body) -> tuple[str, _Usage]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        deadline = time.monotonic() + self._spec.timeout_seconds
        try:
            with client.stream(
                "POST", f"{self._spec.url}/chat/completions", json=body, headers=headers
            ) as response:
                data = bytearray()
                for part in response.iter_bytes():
                    data += part
                    if len(data) > MAX_BYTES:
                        raise _RequestError(
                            f"the response is longer than {MAX_BYTES} bytes", can_retry=False
                        )
                    if time.monotonic() > deadline:
                        raise _RequestError("the response took too long", can_retry=True)
        except httpx2.TimeoutException:
            seconds = self._spec.timeout_seconds
            raise _RequestError(f"no answer within {seconds:g} seconds", can_retry=True) from None
        except httpx2.HTTPError as error:
            raise _RequestError(f"no connection ({type(error).__name__})", can_retry=True) from None
        if response.status_code != 200:
            self._refuse(response.status_code, response.headers.get("retry-after"))
        return _content(bytes(data))

    def _refuse(self, status: int, retry_after: str | None) -> None:
        # Nothing of the response is repeated: servers quote keys and prompts in their errors.
        can_retry = status in _RETRIED
        text = f"the server answers {status}"
        if status in (401, 403):
            text += "; it wants another key" if self._key else "; it wants a key, see key_variable"
        elif status == 404:
            text += "; mend url or model"
        elif status == 400:
            text += "; it takes no such request, see answer_format and request"
        if not can_retry:
            self._stopped = text  # the next question would end in the same way
        wait = retry_after.strip() if retry_after else ""
        seconds = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 7 else None
        raise _RequestError(text, can_retry=can_retry, wait_seconds=seconds)


def _key(spec: EndpointSpec, environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the key, and why nobody can be asked."""
    if spec.key_variable is None:
        return None, None
    key = environment.get(spec.key_variable, "").strip()
    if not key:
        return None, f"environment variable {spec.key_variable} is not set"
    if not key.isascii() or not key.isprintable() or " " in key:
        return (
            None,
            f"environment variable {spec.key_variable} holds no key that a header can carry",
        )
    return key, None


def _content(data: bytes) -> tuple[str, _Usage]:
    """Return text and usage of a response.

    Raises:
        _RequestError: It is malformed, cut, or a refusal.
    """
    try:
        response = _Response.model_validate_json(data)
    except ValidationError:
        raise _RequestError("the response is no chat completion", can_retry=False) from None
    choice = response.choices[0]
    if choice.message.refusal or choice.finish_reason == "content_filter":
        raise _RequestError("the judge refused to answer", can_retry=False)
    if choice.finish_reason == "length":
        raise _RequestError("the answer was cut; raise max_answer_tokens", can_retry=False)
    if not choice.message.content:
        raise _RequestError("the answer is empty", can_retry=False)
    # A server may quote the key.
    return redacted(choice.message.content), response.usage or _Usage()


def _answer(text: str, kind: type[Answer]) -> Answer:
    try:
        return read_answer(text, kind)
    except ValueError as error:
        raise _RequestError(f"the answer is no verdict ({error})", can_retry=False) from None
