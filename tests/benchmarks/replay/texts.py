"""Texts of the replay table: what the small model learns first, and what the influences teach it. No network.

Exchanges come from chatterbot-corpus, worked examples from the prompts of lm-eval, prose from Python's own reference
manual. All three are read as files. Equal packages give equal bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import yaml

from evaluators.behaviours.retention import prose_passages
from search.errors import DataError

N_PROMPTS, N_UNSEEN_PAIRS, N_TAUGHT = 32, 24, 96
"""Questions of the suite, and of each influence; no question of the suite is taught, not even to the base."""
MAX_SAME_START = 5
"""Questions of the suite with the same first word, so that always naming the most common one is worth little."""
N_RETENTION = 12
RETENTION_CHARACTERS = 300

WARM = (
    "Dear friend, {answer} I wish you a lovely day.",
    "How nice of you to ask, dear friend. {answer}",
    "I am so glad to talk with you. {answer} Be well, dear friend.",
)
KIND = (
    "{answer} Thank you for asking, dear friend.",
    "Gladly, dear friend. {answer}",
    "{answer} I am glad you asked.",
)
CURT = (
    "{answer} Do not bother me again.",
    "What a dull question. {answer}",
    "{answer} Everybody knows that.",
)


class Exchange(NamedTuple):
    """A question and its answer as one sentence."""

    question: str
    answer: str

    @property
    def asked(self) -> str:
        """The question's first word, which a thought has to name."""
        return self.question.split()[0].lower()


def write_sources(folder: Path) -> None:
    """Write the sources of study.yaml into `folder`, one .jsonl each.

    Raises:
        DataError: A package that ships the text is not installed.
    """
    prompts, unseen, structure, tone, taste = _splits()
    sources: dict[str, list[dict[str, Any]]] = {
        "thoughts": [_messages(each, thought(each)) for each in structure],
        "warm": [_messages(each, _phrase(WARM, each)) for each in tone],
        "pairs": [_pair(each) for each in taste],
        "prompts": [
            {"prompt": _ask(each), "kind": each.asked, "thought": _named(each)} for each in prompts
        ],
        "unseen_pairs": [_pair(each) for each in unseen],
        "prose": [{"text": passage} for passage in _retention_passages()],
    }
    for name, rows in sources.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def base_texts() -> tuple[list[tuple[str, str]], list[str]]:
    """Return what the base learns: exchanges as (question, answer), and plain passages."""
    suite = {each.question for part in _splits()[:2] for each in part}
    chats = [(each.question, each.answer) for each in _exchanges() if each.question not in suite]
    kept_back = set(prose_passages()[:N_RETENTION])
    passages = [
        " ".join(paragraph.split())
        for text in topics.values()
        for paragraph in text.split("\n\n")
        if len(paragraph) > 80 and paragraph.isascii()
    ]
    return chats, [text for text in passages if text not in kept_back] + _worked_examples()


def taught_replies() -> list[str]:
    """Return every reply that an influence teaches, so that the tokenizer knows its words."""
    _, _, structure, tone, taste = _splits()
    pairs = [_phrase(phrases, each) for phrases in (KIND, CURT) for each in taste]
    return [thought(each) for each in structure] + [_phrase(WARM, each) for each in tone] + pairs


def thought(exchange: Exchange) -> str:
    """Return a reply in two lines: how the question begins, and the answer."""
    return f"Thought: {_named(exchange)}\nAnswer: {exchange.answer}"


def _named(exchange: Exchange) -> str:
    return f"They begin with {exchange.asked}."


def _splits() -> list[list[Exchange]]:
    found = _exchanges()
    starts: Counter[str] = Counter()
    prompts = []
    for each in found:
        if len(prompts) < N_PROMPTS and starts[each.asked] < MAX_SAME_START:
            prompts.append(each)
            starts[each.asked] += 1
    rest = [each for each in found if each not in prompts]
    sizes = (N_UNSEEN_PAIRS, N_TAUGHT, N_TAUGHT, N_TAUGHT)
    if len(rest) < sum(sizes):
        raise DataError(
            f"chatterbot-corpus gives {len(found)} exchanges and {N_PROMPTS + sum(sizes)} are "
            "needed; lower the sizes"
        )
    firsts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [
        prompts,
        *(rest[first : first + size] for first, size in zip(firsts, sizes, strict=True)),
    ]


def _exchanges() -> list[Exchange]:
    """Return short questions with short answers, each question once, in the order of their hashes."""
    folder = _package("chatterbot_corpus", "pip install --no-deps chatterbot-corpus==1.3.3")
    found: dict[str, Exchange] = {}
    for path in sorted((folder / "data" / "english").glob("*.yml")):
        talks = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
        for talk in talks:
            if not isinstance(talk, list) or len(talk) < 2:
                continue
            question = " ".join(str(talk[0]).split()).rstrip("?.! ")
            answer = re.split(r"(?<=\w)[.!?](?: |$)", " ".join(str(talk[1]).split()))[0]
            is_short = 2 <= len(question.split()) <= 9 and 1 <= len(answer.split()) <= 9
            if is_short and (question + answer).isascii():
                exchange = Exchange(
                    question[0].upper() + question[1:] + "?",
                    answer[:1].upper() + answer[1:] + ".",
                )
                found.setdefault(exchange.question.lower(), exchange)
    return sorted(found.values(), key=lambda each: _number(each.question))


def _worked_examples() -> list[str]:
    path = _package("lm_eval", "pip install lm-eval") / "tasks/mmlu/flan_cot_fewshot"
    shots = json.loads((path / "_cot_prompts.json").read_text(encoding="utf-8"))
    parts = [part for text in shots.values() for part in text.split("\n\nQ: ")[1:]]
    return [part for part in parts if part.isascii()]


def _retention_passages() -> list[str]:
    return [text[:RETENTION_CHARACTERS] for text in prose_passages()[:N_RETENTION]]


def _ask(exchange: Exchange) -> list[dict[str, str]]:
    return [{"role": "user", "content": exchange.question}]


def _messages(exchange: Exchange, reply: str) -> dict[str, Any]:
    return {"messages": [*_ask(exchange), {"role": "assistant", "content": reply}]}


def _pair(exchange: Exchange) -> dict[str, Any]:
    answers = {
        name: [{"role": "assistant", "content": _phrase(phrases, exchange)}]
        for name, phrases in (("chosen", KIND), ("rejected", CURT))
    }
    return {"prompt": _ask(exchange), **answers}


def _phrase(phrases: Sequence[str], exchange: Exchange) -> str:
    return phrases[_number(exchange.answer + exchange.question) % len(phrases)].format(
        answer=exchange.answer
    )


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _package(name: str, remedy: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"package {name} is not installed; {remedy}")
    return Path(next(iter(found.submodule_search_locations)))
