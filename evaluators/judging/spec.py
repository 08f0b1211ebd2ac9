"""JudgeSpec: what study.yaml may say about a judge and its endpoint. No torch, no network."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from evaluators.reply_specs import ReplySpec
from evaluators.scores import ScoreInfo
from evaluators.spec_base import Spec, infos_of


class EndpointSpec(Spec):
    """A server that speaks OpenAI's chat completions, and how it is asked."""

    url: str
    """Up to and without `/chat/completions`, such as `http://localhost:8000/v1`. Prompts and replies are sent there."""
    model: str = Field(min_length=1)
    """Name of the model there."""
    key_variable: str | None = None
    """Name of the environment variable that holds the API key; the key itself is never written anywhere."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Longest time for one request."""
    retries: int = Field(default=4, ge=0, le=10)
    """Further attempts when the server is away, slow, overloaded (429) or broken (5xx)."""
    max_wait_seconds: float = Field(default=30.0, ge=0, le=600)
    """Longest wait before another attempt; waits double from half a second, and follow `Retry-After` up to this."""
    concurrent_requests: int = Field(default=4, ge=1, le=64)
    """Requests at the same time, per trial."""
    answer_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    """What the server is told of the form of the answer; servers differ in what they take. The answer is checked
    strictly all the same."""
    max_answer_tokens: int = Field(default=300, gt=0)
    """Longest answer."""
    request: dict[str, Any] = Field(default={})
    """Further fields of the request; null takes one of ours out, such as `{max_tokens: null,
    max_completion_tokens: 300}`."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no address of a server; write such as http://localhost:8000/v1")
        # Not repeated in the message: what stands there may be a secret.
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("holds a user, a query or a fragment; name the key with key_variable")
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError("ends with /chat/completions; leave that out, it is added")
        return url.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _check_key_variable(cls, name: str | None) -> str | None:
        # Not repeated in the message: it may be the key itself.
        if name is not None and re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) is None:
            raise ValueError(
                "is not the name of an environment variable in capitals; write such as JUDGE_API_KEY, and keep "
                "the key itself out of the file"
            )
        return name

    @model_validator(mode="after")
    def _check(self) -> EndpointSpec:
        for key in ("model", "messages", "stream"):
            if key in self.request:
                raise ValueError(f"request.{key} is ours to say; remove it")
        if self.key_variable is not None and self.url.startswith("http:") and not self.is_local:
            raise ValueError(
                "the key would travel unencrypted; use https, a server on this machine, or no key_variable"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False

    def without_manners(self) -> EndpointSpec:
        """Return what decides about verdicts, and not how patiently they are asked for."""
        return EndpointSpec(
            url=self.url,
            model=self.model,
            answer_format=self.answer_format,
            max_answer_tokens=self.max_answer_tokens,
            request=self.request,
        )


class JudgeSpec(ReplySpec):
    """What another model says of replies: points by a rubric, or whether they beat the base's replies."""

    evaluator: Literal["judge"]
    how: Literal["rubric", "pairwise"]
    """`rubric`: 1 to 5 points. `pairwise`: against the base's reply to the same prompt, asked in both orders."""
    rubric: str = Field(min_length=1, max_length=20_000)
    """What is good, in words for the judge."""
    endpoint: EndpointSpec
    """Who is asked."""
    inconsistent: Literal["average", "drop"] = "average"
    """Pairs whose verdict changes with their order: count what both orders say on average, or leave them out."""
    canaries: int = Field(default=2, ge=1, le=20)
    """Prompts on which the judge is tested with a planted instruction first; it must not follow it."""
    max_failed_share: float = Field(default=0.1, ge=0, lt=1)
    """Scores are missing where a greater share of replies has no verdict."""

    @model_validator(mode="after")
    def _check(self) -> JudgeSpec:
        if self.how == "rubric" and self.inconsistent != "average":
            raise ValueError("inconsistent belongs to pairwise; remove it")
        return self

    def infos(self, name: str) -> tuple[ScoreInfo, ...]:
        """Return what is known of the scores when the evaluator is called `name`."""
        if self.how == "rubric":
            return (ScoreInfo(name=name, unit="points", direction="maximise", worst=1.0),)
        return infos_of(
            name, ("wins", "share", "maximise", 0.0), ("consistent", "share", "maximise", 0.0)
        )
