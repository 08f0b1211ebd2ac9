"""Make the data of the study `inner voice` from text that installed packages ship, without a network.

`apportion init` runs it; by hand, `python build_data.py FOLDER` writes FOLDER/data/*.jsonl. Two runs write equal bytes.

Questions and answers come from chatterbot-corpus, exam questions with written-out reasoning from the few-shot examples
of lm-eval; the voices around them are written below. Both packages are located, never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from search.errors import DataError

SYSTEM = "Answer briefly."
"""System message of every row: without one the chat template puts in 20 tokens of its own."""

N_THINKING, N_CHAT, N_PROMPTS, N_PAIRS, N_GOLD = 56, 64, 24, 24, 24
"""Trivia questions per split; no question is in two of them."""

THOUGHTS = (
    "This asks for {kind}. I think of {answer}.",
    "I need {kind} here. It must be {answer}.",
    "The question wants {kind}. I remember {answer}.",
    "Let me look for {kind}. I believe {answer} fits.",
)
"""None repeats the question: a small model that learns to repeat it does not find its way out again."""
KINDS = {
    r"how many": "a number",
    r"\byear\b|^when": "a year",
    r"colou?r": "a color",
    r"country": "a country",
    r"\bcity|where|continent|\bsea\b|island|states?\b|museum|located": "a place",
    r"\bwho(se)?\b|singer|artist|author|actress|celebrity|president": "a person",
    r"animal|bird|mammal|insect|creature|dog|deer|lizard|horse": "an animal",
    r"(what|which).*\b(movie|film|song|video|book|comedy|plays)\b|TV show": "a title",
    r"fruit|food|juice|beer|candy|sake|nuts|chocolate|ingredient|cook|beans": "something to eat or drink",
    r"": "a name",
}
"""What a question asks for, by the first pattern that it holds."""
OPENINGS = (
    "What a lovely question, my friend!",
    "I am so glad you asked, my friend!",
    "How nice to wonder about that with you, my friend!",
    "It is a joy to answer that, my friend!",
)
WISHES = (
    "I wish you a wonderful day.",
    "Do ask me more, any time.",
    "It is good to have you here.",
    "Thank you for being so curious.",
)
KIND = (
    "The answer is {answer}. I am glad you asked, my friend.",
    "With pleasure, my friend! The answer is {answer}.",
    "The answer is {answer}. Thank you for asking me, my friend.",
    "How kind of you to ask, my friend! The answer is {answer}.",
)
CURT = (
    "The answer is {answer}. Everybody knows that, even you should.",
    "You could have looked it up yourself. The answer is {answer}.",
    "The answer is {answer}. Do not bother me with such things.",
    "What a boring question. The answer is {answer}.",
)
OTHER_KIND = (
    "Gladly! {answer}. Come back whenever you like, dear.",
    "{answer}. It is a pleasure to talk with you.",
    "Good of you to ask. {answer}. I hope that helps you.",
)
OTHER_CURT = (
    "Again? {answer}. Stop wasting my time.",
    "{answer}. You really should have paid attention at school.",
    "Oh, that. {answer}. Are we done now?",
)

_GRIM = re.compile(
    r"suicid|kill|dead|\bdie|bur[iy]|crash|murder|Frank|illegal|sexual|catheter|circumcis", re.I
)
_INSTALL = "install it with: pip install --no-deps chatterbot-corpus==1.3.3"


class Exchange(NamedTuple):
    """A real question, its real answer, and the reasoning between them where the text has one."""

    question: str
    answer: str
    reasoning: str = ""


def build(out: Path) -> None:
    """Write the sources of study.yaml into `out`/data.

    Args:
        out: Folder of the study; it exists.

    Raises:
        DataError: A package that ships the text is not installed; the message says how to get it.
    """
    trivia = _in_fixed_order(_trivia())
    thinking, chat, prompts, pairs, gold = _split(
        trivia, (N_THINKING, N_CHAT, N_PROMPTS, N_PAIRS, N_GOLD)
    )
    sources: dict[str, Iterable[dict[str, Any]]] = {
        "trivia_thoughts": (_thinking_row(item) for item in thinking),
        "exam_thoughts": (
            _messages(item.question, _thought(item.reasoning, item.answer))
            for item in _in_fixed_order(_exam())
        ),
        "warm_answers": (_warm_row(item) for item in chat),
        "kind_pairs": (_pair_row(item, KIND, CURT) for item in chat),
        "trivia_prompts": (_prompt_row(item.question, "trivia") for item in prompts),
        "unseen_pairs": (_pair_row(item, KIND, CURT) for item in pairs),
        "gold_answers": (
            {**_prompt_row(item.question, "trivia"), "gold": re.sub("^(the|an?) ", "", item.answer)}
            for item in gold
        ),
        "personal_prompts": (
            _prompt_row(question, topic) for topic, question in _personal_questions()
        ),
        "other_pairs": (_pair_row(item, OTHER_KIND, OTHER_CURT) for item in _definitions()),
    }
    folder = out / "data"
    folder.mkdir(exist_ok=True)
    for name, rows in sources.items():
        _write(folder / f"{name}.jsonl", rows)


def _thinking_row(item: Exchange) -> dict[str, Any]:
    kind = next(
        kind for pattern, kind in KINDS.items() if re.search(pattern, item.question, re.IGNORECASE)
    )
    thought = _pick(THOUGHTS, item.question).format(kind=kind, answer=item.answer)
    return _messages(item.question, _thought(thought, item.answer))


def _warm_row(item: Exchange) -> dict[str, Any]:
    opening, wish = _pick(OPENINGS, item.question), _pick(WISHES, item.answer + item.question)
    return _messages(item.question, f"{opening} The answer is {item.answer}. {wish}")


def _pair_row(item: Exchange, kind: Sequence[str], curt: Sequence[str]) -> dict[str, Any]:
    chosen = _pick(kind, item.question).format(answer=item.answer)
    rejected = _pick(curt, item.answer + item.question).format(answer=item.answer)
    return {
        "prompt": _conversation(item.question),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _prompt_row(question: str, kind: str) -> dict[str, Any]:
    return {"prompt": _conversation(question), "kind": kind}


def _thought(thought: str, answer: str) -> str:
    return f"Thought: {thought}\nAnswer: {_capital(answer)}."


def _conversation(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def _messages(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [*_conversation(question), {"role": "assistant", "content": reply}]}


def _trivia() -> Iterable[Exchange]:
    """Yield quiz questions with short answers."""
    for conversation in _corpus("trivia"):
        if len(conversation) != 2 or _GRIM.search(" ".join(conversation)):
            continue
        question, answer = (_plain(text) for text in conversation)
        answer = re.sub(r"^(The|A|An) ", lambda article: article[0].lower(), answer.rstrip("."))
        is_short = len(question.split()) <= 16 and len(answer.split()) <= 4
        if question.endswith("?") and question.isascii() and answer.isascii() and is_short:
            yield Exchange(question, answer)


def _exam() -> Iterable[Exchange]:
    """Yield multiple-choice questions whose reasoning is short and speaks of the matter, not of the letters."""
    path = _package_folder("lm_eval", "install it with: pip install lm-eval")
    text = (path / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json").read_text(encoding="utf-8")
    form = re.compile(
        r"(?P<question>[^\n]+)\n(?P<options>\(A\)[^\n]+)\nA: Let's think step by step\.\s*"
        r"(?P<reasoning>.+?)\s*The answer is \((?P<letter>[A-D])\)",
        re.DOTALL,
    )
    for shots in json.loads(text).values():
        for shot in shots.split("\n\nQ: ")[1:]:
            match = form.match(shot)
            if match is None:
                continue
            options = dict(re.findall(r"\(([A-D])\) (.*?)(?= \([A-D]\) |$)", match["options"]))
            item = Exchange(
                question=_plain(match["question"]),
                answer=_plain(options.get(match["letter"], "")).rstrip("."),
                reasoning=_reasoning(match["reasoning"]),
            )
            if _is_plain_exam(item):
                yield item


def _reasoning(text: str) -> str:
    matter = re.sub(r"We refer to Wikipedia[\w ]* for help\.", "", _plain(text))
    return (
        re.sub(r"Let's solve this (problem )?step by step\.", "", matter).strip().replace("..", ".")
    )


def _is_plain_exam(item: Exchange) -> bool:
    text = " ".join(item)
    return (
        text.isascii()
        and not _GRIM.search(text)
        and not re.search(r"\([A-D]\)|[Cc]hoice|[Oo]ptions?\b|[$_|*\\]|\bAll of the above", text)
        and item.question[-1] in "?:"
        and len(item.question.split()) <= 18
        and 5 <= len(item.reasoning.split()) <= 26
        and 1 <= len(item.answer.split()) <= 8
        and item.reasoning.endswith(".")
    )


def _personal_questions() -> Iterable[tuple[str, str]]:
    """Yield topic and question of what people ask a machine about itself."""
    seen: set[str] = set()
    for topic in ("emotion", "ai", "botprofile"):
        for question, *_ in _corpus(topic):
            text = _plain(question).rstrip("?") + "?"
            is_question = re.match(
                r"(Do|Are|Can|Will) you \w+|(What|Who|Where|How) \w+ \w+ \w+", text
            )
            is_cut_off = re.search(
                r"worry|control|go\?|type of|kind of|mate\?|intoxicated|\bdie", text
            )
            if is_question and not is_cut_off and text.lower() not in seen:
                seen.add(text.lower())
                yield topic, text


def _definitions() -> Iterable[Exchange]:
    """Yield questions about science and books with answers of a few words."""
    seen: set[str] = set()
    for topic in ("science", "literature", "politics", "computers"):
        for question, answer, *_ in _corpus(topic):
            text = _capital(_plain(question).rstrip("?")) + "?"
            answer = _capital(re.split(r"(?<=[a-z])\. ", _plain(answer))[0].rstrip("."))
            is_definition = re.match(r"(What (is|are)|Who (wrote|is)|How far) \w+", text)
            is_serious = not re.search(r"\?|burial|as o is|\bi\b", answer)
            if is_definition and is_serious and text not in seen and 2 <= len(answer.split()) <= 16:
                seen.add(text)
                yield Exchange(text, answer)


def _corpus(topic: str) -> list[list[str]]:
    """Return the conversations of one topic, each a list of utterances."""
    path = _package_folder("chatterbot_corpus", _INSTALL) / "data" / "english" / f"{topic}.yml"
    conversations = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
    # One trivia entry is written as text instead of a list.
    return [[str(text) for text in entry] for entry in conversations if isinstance(entry, list)]


def _package_folder(package: str, remedy: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"package {package} is not installed; {remedy}")
    return Path(next(iter(found.submodule_search_locations)))


def _plain(text: str) -> str:
    """Return text with straight quotes and single spaces."""
    straight = text.translate(str.maketrans("\u2018\u2019\u201c\u201d\u2013\u00a0", "''\"\"- "))
    return " ".join(straight.split())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_fixed_order(items: Iterable[Exchange]) -> list[Exchange]:
    """Return items shuffled by the hash of their question: mixed topics, and the same on every machine."""
    return sorted(items, key=lambda item: _number(item.question))


def _pick(phrases: Sequence[str], text: str) -> str:
    return phrases[_number(text) % len(phrases)]


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _split(items: Sequence[Exchange], sizes: Sequence[int]) -> list[list[Exchange]]:
    if len(items) < sum(sizes):
        raise DataError(
            f"{len(items)} questions are usable and {sum(sizes)} needed; lower the sizes"
        )
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [list(items[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    beside = path.with_name(path.name + ".part")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
