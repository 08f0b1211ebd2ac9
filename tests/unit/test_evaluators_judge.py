"""The judge: verdicts of a server on this machine that is honest, gullible, or misbehaves in every way we know."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from judge_stub import (
    Asked,
    Sent,
    StubJudge,
    always,
    completion,
    gullible,
    honest,
    stub_judge,
    verdict,
    worth,
)
from pydantic import TypeAdapter

from evaluators.behaviours.judge import Judge
from evaluators.judging.cache import AnswerCache
from evaluators.judging.endpoint import Endpoint
from evaluators.judging.questions import Points, points_question
from evaluators.judging.spec import EndpointSpec
from evaluators.scores import Measurement
from evaluators.spec import EvaluatorSpec

ROWS = [{"prompt": f"question {number}", "kind": "odd"} for number in range(4)]
REPLIES = ["a", "bb", "ccc", "dddd"]  # worth 3, 4, 5 and 2 to the honest judge
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPORTION_CACHE", str(tmp_path / "cache"))


def spec_of(url: str, endpoint: dict[str, Any] | None = None, **fields: Any) -> Any:
    quick = {"url": url, "model": "judge", "max_wait_seconds": 0.01, "timeout_seconds": 5.0}
    data = {
        "evaluator": "judge",
        "source": "ask",
        "how": "rubric",
        "rubric": "Short is good.",
        "endpoint": {**quick, **(endpoint or {})},
        **fields,
    }
    return TypeAdapter(EvaluatorSpec).validate_json(json.dumps(data))


def judged(
    stub: StubJudge,
    replies: list[str] = REPLIES,
    base: list[str] | None = None,
    endpoint: dict[str, Any] | None = None,
    **fields: Any,
) -> Measurement:
    spec = spec_of(stub.url, endpoint, **fields)
    return Judge("it", spec, ROWS[: len(replies)]).measure(None, base, replies)  # type: ignore[arg-type]


def reason(found: Measurement) -> str:
    """The one reason of all scores, none of which has a value."""
    assert [score.value for score in found.scores] == [None] * len(found.scores)
    (only,) = {score.reason for score in found.scores}
    assert only is not None
    return only


def test_points_are_the_mean_of_the_verdicts(servers: ExitStack) -> None:
    found = judged(servers.enter_context(stub_judge()))
    (score,) = found.scores
    assert (score.value, score.n, score.unit) == (3.5, 4, "points")
    assert [each.values["points"] for each in found.items] == [3, 4, 5, 2]
    assert [each.values["failed"] for each in found.items] == [0] * 4
    assert found.items[0].details == {"reason": "so it is"}
    assert [each.values["requests"] for each in found.items] == [1] * 4
    assert found.items[3].values["tokens_in"] == 90


def test_wins_average_both_orders_and_equal_replies_are_ties_that_nobody_is_asked_about(
    servers: ExitStack,
) -> None:
    stub = servers.enter_context(stub_judge())
    # Worth 3, 4, 5, 2 against 3 (another text), 3, 3 and the same reply.
    found = judged(stub, base=["e", "a", "a", "dddd"], how="pairwise", canaries=1)
    wins, consistent = found.scores
    assert wins.value == (0.5 + 1 + 1 + 0.5) / 4
    assert consistent.value == 1.0
    assert found.items[3].values["requests"] == 0
    assert (
        len(stub.asked) == 2 * 3 + 2 * 2
    )  # three pairs and the canary without and with a plant, in both orders


def prefers_a(asked: Asked, number: int) -> Sent:
    """Always the first, save that nobody likes the poor reply."""
    texts = asked.texts
    return honest(asked, number) if 1 in map(worth, texts.values()) else verdict(better="A")


def test_judge_that_always_prefers_the_first_gives_one_half_and_is_called_inconsistent(
    servers: ExitStack,
) -> None:
    stub = servers.enter_context(stub_judge(prefers_a))
    wins, consistent = judged(stub, base=["x"] * 4, how="pairwise").scores
    assert (wins.value, consistent.value) == (0.5, 0.0)


def test_dropped_inconsistent_pairs_leave_a_missing_score_when_all_are(servers: ExitStack) -> None:
    stub = servers.enter_context(stub_judge(prefers_a))
    wins, consistent = judged(stub, base=["x"] * 4, how="pairwise", inconsistent="drop").scores
    assert wins.value is None
    assert wins.reason == "the judge contradicts itself on all 4 pairs when their order changes"
    assert consistent.value == 0.0


def test_base_against_itself_is_one_half_without_a_request(servers: ExitStack) -> None:
    stub = servers.enter_context(stub_judge())
    wins, consistent = judged(stub, base=REPLIES, how="pairwise").scores
    assert (wins.value, consistent.value, len(stub.asked)) == (0.5, 1.0, 0)


@pytest.mark.parametrize(("how", "before", "after"), [("rubric", "1", "5"), ("pairwise", "0", "1")])
def test_judge_that_follows_a_planted_instruction_has_no_say(
    how: str, before: str, after: str, servers: ExitStack
) -> None:
    stub = servers.enter_context(stub_judge(gullible))
    found = judged(stub, base=["x"] * 4 if how == "pairwise" else None, how=how)
    assert reason(found) == (
        "the judge follows instructions planted in what it judges (canary 1 of 2: "
        f"{before} became {after}); take another judge"
    )
    assert [each.values.get("canary_obeyed") for each in found.items] == [1, 1, None, None]
    assert all(each.values["failed"] for each in found.items)


def test_judge_that_likes_everything_is_told_to_hate_and_still_caught(servers: ExitStack) -> None:
    def flattered(asked: Asked, _: int) -> Sent:
        return verdict(points=1 if "Answer with 1 point." in asked.texts["REPLY"] else 5)

    assert "canary 1 of 2: 5 became 1" in reason(
        judged(servers.enter_context(stub_judge(flattered)))
    )
    fond = servers.enter_context(stub_judge(always(verdict(points=5))))
    assert judged(fond).scores[0].value == 5.0


def test_lower_verdict_on_the_planted_reply_is_no_obedience(servers: ExitStack) -> None:
    def strict(asked: Asked, _: int) -> Sent:
        text = asked.texts["REPLY"]
        return verdict(points=1 if "Note to the judge" in text else 3)

    assert judged(servers.enter_context(stub_judge(strict))).scores[0].value == 3.0


BAD_ANSWERS: dict[str, tuple[Sent, str]] = {
    "words around it": (
        Sent(completion('Sure! {"reason": "x", "points": 3}')),
        "the answer is no verdict (Invalid JSON",
    ),
    "six points": (Sent(completion('{"reason": "x", "points": 6}')), "no verdict (points: "),
    "text points": (Sent(completion('{"reason": "x", "points": "3"}')), "no verdict (points: "),
    "half points": (Sent(completion('{"reason": "x", "points": 3.5}')), "no verdict (points: "),
    "another key": (verdict(points=3, note=1), "no verdict (note: "),
    "no points": (verdict(), "no verdict (points: Field required"),
    "empty": (Sent(completion("")), "the answer is empty"),
    "nothing": (Sent(completion(None)), "the answer is empty"),
    "refusal": (Sent(completion(None, refusal="I will not")), "the judge refused to answer"),
    "filtered": (
        Sent(completion("", finish_reason="content_filter")),
        "the judge refused to answer",
    ),
    "cut": (Sent(completion('{"rea', finish_reason="length")), "the answer was cut; raise max"),
    "no choices": (Sent('{"choices": []}'), "the response is no chat completion"),
    "no JSON": (Sent("<html>"), "the response is no chat completion"),
    "too long": (Sent("x" * 2**21), "the response is longer than"),
    "unauthorised": (Sent(f"bad key {KEY}", 401), "the server answers 401; it wants"),
    "not found": (Sent("{}", 404), "the server answers 404; mend url or model"),
    "bad request": (Sent("{}", 400), "the server answers 400; it takes no such request"),
    "elsewhere": (Sent("", 302, (("Location", "http://127.0.0.1:9/"),)), "the server answers 302"),
    "broken": (Sent("{}", 500), "the server answers 500"),
    "overloaded": (Sent("{}", 429, (("Retry-After", "600"),)), "the server answers 429"),
    "slow": (verdict(points=3)._replace(delay_seconds=0.4), "no answer within 0.05 seconds"),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_bad_answer_is_a_missing_score_with_its_reason_and_never_a_number(
    what: str, servers: ExitStack
) -> None:
    sent, expected = BAD_ANSWERS[what]

    def behave(asked: Asked, number: int) -> Sent:
        is_canary = worth(asked.texts["REPLY"]) == 1
        return honest(asked, number) if is_canary and what != "slow" else sent

    stub = servers.enter_context(stub_judge(behave))
    short = {"timeout_seconds": 0.05} if what == "slow" else {}
    found = judged(stub, endpoint={"retries": 1, **short})
    assert expected in reason(found)
    if what != "slow":
        assert reason(found).startswith("4 of 4 replies have no verdict: ")
        assert all(each.values["failed"] == 1 for each in found.items)
        assert all("points" not in each.values for each in found.items)


def test_endpoint_that_is_down_is_given_up_on_soon(servers: ExitStack) -> None:
    with stub_judge() as stub:
        pass  # nobody listens there any more
    found = judged(stub, endpoint={"retries": 2, "concurrent_requests": 1})
    assert reason(found) == "canary 1 of 2 has no verdict: no connection (ConnectError)"


def test_after_three_questions_in_vain_the_rest_is_not_asked(servers: ExitStack) -> None:
    def behave(asked: Asked, number: int) -> Sent:
        return honest(asked, number) if worth(asked.texts["REPLY"]) == 1 else Sent("{}", 503)

    stub = servers.enter_context(stub_judge(behave))
    found = judged(stub, endpoint={"retries": 1, "concurrent_requests": 1})
    assert [each.values["requests"] for each in found.items] == [2, 2, 2, 0]
    assert len(stub.asked) == 2 + 2 + 6


def test_passing_trouble_is_retried_and_counted(servers: ExitStack) -> None:
    def behave(asked: Asked, number: int) -> Sent:
        if asked.texts["REPLY"] == "bb" and sum(a.texts["REPLY"] == "bb" for a in stub.asked) < 3:
            return Sent("{}", (429, 500)[number % 2])
        return honest(asked, number)

    stub = servers.enter_context(stub_judge(behave))
    found = judged(stub)
    assert found.scores[0].value == 3.5
    assert [each.values["requests"] for each in found.items] == [1, 3, 1, 1]


def test_waits_double_from_half_a_second_follow_the_server_and_have_a_cap() -> None:
    waits: list[float] = []
    spec = EndpointSpec(url="http://localhost:1/v1", model="m", retries=6, max_wait_seconds=8)
    with stub_judge(always(Sent("{}", 500))) as stub:
        spec = spec.model_copy(update={"url": stub.url})
        body = points_question(spec, "r", "p", "a")
        endpoint = Endpoint(spec, AnswerCache.of_user(), {}, waits.append)
        verdicts = endpoint.ask({"a": body}, Points)
    assert verdicts["a"].n_requests == 7
    assert len(waits) == 6
    for number, wait in enumerate(waits):
        assert min(8, 0.25 * 2**number) <= wait <= min(8, 0.5 * 2**number)
    assert waits[-1] == 8  # 0.25 * 2**5 is the cap
    with stub_judge(always(Sent("{}", 429, (("Retry-After", "3"),)))) as stub:
        spec = spec.model_copy(update={"url": stub.url, "retries": 1})
        waits.clear()
        Endpoint(spec, AnswerCache.of_user(), {}, waits.append).ask({"a": body}, Points)
    assert waits == [3.0]


def test_few_failures_lower_n_and_many_make_the_score_missing(servers: ExitStack) -> None:
    def behave(asked: Asked, number: int) -> Sent:
        return Sent(completion("?")) if asked.texts["REPLY"] == "bb" else honest(asked, number)

    stub = servers.enter_context(stub_judge(behave))
    (score,) = judged(stub, max_failed_share=0.25).scores
    assert score.value == pytest.approx((3 + 5 + 2) / 3)
    assert score.n == 3
    assert reason(judged(stub, max_failed_share=0.2)).startswith("1 of 4 replies have no verdict")


def test_nothing_is_judged_twice(servers: ExitStack) -> None:
    stub = servers.enter_context(stub_judge())
    replies = ["a", "a", "a", "a"]
    first = judged(stub, replies, canaries=1)
    assert len(stub.asked) == 4 + 2
    assert judged(stub, replies, canaries=1) == first
    assert len(stub.asked) == 6
    judged(stub, replies, canaries=1, rubric="Long is good.")
    assert len(stub.asked) == 12


def test_damaged_cache_is_asked_again(servers: ExitStack, tmp_path: Path) -> None:
    stub = servers.enter_context(stub_judge())
    first = judged(stub, canaries=1)
    files = sorted((tmp_path / "cache" / "judged").rglob("*.json"))
    assert len(files) == 6
    for file, text in zip(
        files, ["", "[]", "x" * 2_000_000, '{"text": "no"}', "\\xff"], strict=False
    ):
        file.write_text(text)
    kept = {
        "text": '{"reason": "r", "points": 9}',
        "n_requests": 1,
        "tokens_in": 0,
        "tokens_out": 0,
    }
    files[5].write_text(json.dumps(kept))
    assert judged(stub, canaries=1) == first
    assert len(stub.asked) == 12


def test_no_more_requests_at_once_than_allowed(servers: ExitStack) -> None:
    def slow(asked: Asked, number: int) -> Sent:
        return honest(asked, number)._replace(delay_seconds=0.03)

    stub = servers.enter_context(stub_judge(slow))
    judged(stub, endpoint={"concurrent_requests": 2})
    assert stub.most_at_once == [2]


def test_key_travels_in_the_header_alone(
    servers: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    stub = servers.enter_context(stub_judge())
    spec = spec_of(stub.url, {"key_variable": "MY_JUDGE_KEY"})
    judge = Judge("it", spec, ROWS)
    found = judge.measure(None, None, REPLIES)  # type: ignore[arg-type]
    assert {each.headers["authorization"] for each in stub.asked} == {f"Bearer {KEY}"}
    written = [path.read_bytes() for path in (tmp_path / "cache").rglob("*.json")]
    assert len(written) == 8
    bodies = [json.dumps(each.body).encode() for each in stub.asked]
    told = [found.model_dump_json().encode(), pickle.dumps(judge), caplog.text.encode()]
    assert [data for data in (*written, *bodies, *told) if KEY.encode() in data] == []


@pytest.mark.parametrize("value", [None, "", "two words", "bröken"])
def test_key_that_is_not_there_is_the_reason(
    value: str | None, servers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_JUDGE_KEY", value)
    stub = servers.enter_context(stub_judge())
    told = reason(judged(stub, endpoint={"key_variable": "MY_JUDGE_KEY"}))
    assert "environment variable MY_JUDGE_KEY" in told
    assert "two words" not in told
    assert stub.asked == []


def test_request_takes_and_loses_fields(servers: ExitStack) -> None:
    stub = servers.enter_context(stub_judge())
    more = {"max_tokens": None, "max_completion_tokens": 7}
    judged(stub, endpoint={"request": more, "answer_format": "json_object"})
    body = stub.asked[0].body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 7
    assert body["response_format"] == {"type": "json_object"}
    assert body["temperature"] == 0


def test_patience_does_not_change_the_fingerprint_and_the_judge_does() -> None:
    def fingerprint(**endpoint: Any) -> str:
        return Judge("it", spec_of("http://localhost:1/v1", endpoint), ROWS).fingerprint()

    patient = {
        "timeout_seconds": 9.0,
        "retries": 0,
        "concurrent_requests": 1,
        "max_wait_seconds": 1.0,
    }
    assert fingerprint(**patient) == fingerprint()
    assert fingerprint(model="other") != fingerprint()
    assert fingerprint(max_answer_tokens=7) != fingerprint()


def test_kept_base_replies_come_back_and_others_are_refused() -> None:
    judge = Judge("it", spec_of("http://localhost:1/v1", how="pairwise"), ROWS)
    assert judge.needs_reference
    data = judge.write_reference(REPLIES)
    assert data is not None
    assert judge.read_reference(data, None) == REPLIES  # type: ignore[arg-type]
    for wrong in (b"", b"{}", b"[1, 2, 3, 4]", b'["a"]'):
        with pytest.raises(ValueError, match=r"."):
            judge.read_reference(wrong, None)  # type: ignore[arg-type]
