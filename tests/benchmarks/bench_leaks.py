"""How many planted leaks are found in real text, how many rows are accused wrongly, and how long 100,000 rows take.

python tests/benchmarks/bench_leaks.py        # prints JSON; under a minute

Text: questions of chatterbot-corpus and of the worked examples for MMLU that lm-eval ships, and paragraphs of
pydoc_data.topics. Half of the distinct rows are the other source, half the measured one. A leak is planted by changing
a row of the other source in one of the ways below, and adding it to the measured rows. An accusation between rows that
were not planted is listed, to be judged. The thresholds were chosen on the first and the last of these texts.
"""

from __future__ import annotations

import importlib.util
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import yaml

from search.data.leaks import Leak, Seen, find_leaks
from search.data.words import RowWords, row_words, words_of

SEED = 0
FILLERS = ("please", "really", "the", "now", "just")
SHUFFLED = {"?": " ?", ".": " !", ",": " -", "'": "\u2019"}


def chat_questions() -> list[str]:
    folder = _package_folder("chatterbot_corpus") / "data" / "english"
    texts = [
        str(entry[0])
        for path in sorted(folder.glob("*.yml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
        if isinstance(entry, list)
    ]
    return distinct(text for text in texts if len(words_of(text)) >= 4)


def exam_questions() -> list[str]:
    """Return the questions of MMLU's worked examples."""
    path = _package_folder("lm_eval") / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
    shots = json.loads(path.read_text(encoding="utf-8")).values()
    texts = [shot.split("\n")[0] for part in shots for shot in part.split("\n\nQ: ")[1:]]
    return distinct(text for text in texts if len(words_of(text)) >= 4)


def paragraphs() -> list[str]:
    texts = (" ".join(p.split()) for text in topics.values() for p in text.split("\n\n"))
    return distinct(text for text in texts if len(words_of(text)) >= 20)


def _package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations)))


def distinct(texts: Any) -> list[str]:
    found = list({words_of(text): text for text in texts}.values())
    random.Random(SEED).shuffle(found)
    return found


def punctuated(text: str, draw: random.Random) -> str:
    for mark, other in SHUFFLED.items():
        text = text.replace(mark, other)
    return f"  {text.upper()} "


def one_changed(text: str, draw: random.Random) -> str:
    """Put another word for one of the short ones, as people reword a question: is, the, what, of."""
    words = text.split()
    short = [at for at, word in enumerate(words) if len(word) <= 4] or [0]
    words[draw.choice(short)] = draw.choice(FILLERS)
    return punctuated(" ".join(words), draw)


def any_changed(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words))] = draw.choice(FILLERS)
    return " ".join(words)


def one_added(text: str, draw: random.Random) -> str:
    words = text.split()
    words.insert(draw.randrange(len(words) + 1), draw.choice(FILLERS))
    return " ".join(words)


def one_left_out(text: str, draw: random.Random) -> str:
    words = text.split()
    short = [at for at, word in enumerate(words) if len(word) <= 4] or [0]
    words.pop(draw.choice(short))
    return " ".join(words)


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "case and punctuation": punctuated,
    "a short word and punctuation changed": one_changed,
    "any word changed": any_changed,
    "a word added": one_added,
    "a short word left out": one_left_out,
}


def rows(texts: list[str]) -> list[RowWords]:
    return [row_words({"text": text}, "text") for text in texts]


def leaks_of(others: list[str], measured: list[str]) -> list[Leak]:
    other, own = Seen("train", "other"), Seen("holdout", "measured")
    return find_leaks({other: rows(others)}, {own: rows(measured)}).get((other, own), [])


def measured_recall(texts: list[str], n_planted: int) -> tuple[dict[str, float], list[list[str]]]:
    """Return the share of planted leaks that are found, by kind of change, and all other accusations."""
    half = len(texts) // 2
    other, measured = texts[:half], texts[half:]
    recall: dict[str, float] = {}
    for name, change in CHANGES.items():
        draw = random.Random(SEED)
        planted = [change(text, draw) for text in draw.sample(other, n_planted)]
        found = {leak.measured_row for leak in leaks_of(other, measured + planted)}
        recall[name] = sum(at >= len(measured) for at in found) / n_planted
    accused = [
        [leak.kind, other[leak.other_row], measured[leak.measured_row]]
        for leak in leaks_of(other, measured)
    ]
    return recall, accused


def embedded_recall(texts: list[str], documents: list[str], n_planted: int) -> dict[str, float]:
    """Return the share of questions that are found inside a longer document, by their number of words."""
    draw = random.Random(SEED)
    planted = draw.sample(texts, n_planted)
    longer = [
        f"{document} {punctuated(text, draw)} {document[::-1]}"
        for text, document in zip(planted, documents, strict=False)
    ]
    found = {leak.measured_row for leak in leaks_of(longer, planted)}
    by_length: dict[str, list[bool]] = {"5 words and more": [], "4 words": []}
    for at, text in enumerate(planted):
        key = "5 words and more" if len(words_of(text)) >= 5 else "4 words"
        by_length[key].append(at in found)
    return {name: sum(hits) / max(1, len(hits)) for name, hits in by_length.items()}


def template_alarms(n: int) -> float:
    """Return the share of rows accused that share a template with rows of the other source and nothing else."""
    names = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("ala", "eno", "iri", "oto", "uma")]
    texts = [f"Please tell me, what is the capital city of the country that is called {name}?"
             for name in names]  # fmt: skip
    return len(leaks_of(texts[:n], texts[n:])) / len(texts[n:])


def timed(n_rows: int) -> dict[str, float]:
    """Return seconds for so many short rows against 5,000 measured ones, made of real words."""
    draw = random.Random(SEED)
    words = [word for text in paragraphs() for word in text.split()]

    def some(n: int) -> list[str]:
        return [" ".join(draw.choices(words, k=draw.randint(6, 30))) for _ in range(n)]

    other, measured = some(n_rows), some(5000)
    started, cpu_started = time.perf_counter(), time.process_time()
    leaks_of(other, measured)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    return {"wall": round(wall, 1), "cpu": round(cpu, 1)}


def main() -> None:
    questions, prose = chat_questions(), paragraphs()
    found: dict[str, Any] = {}
    for name, texts in (("chat", questions), ("exam", exam_questions()), ("paragraphs", prose)):
        recall, accused = measured_recall(texts, min(200, len(texts) // 2))
        half = len(texts) // 2
        found[name] = {
            "n_other": half,
            "n_measured": len(texts) - half,
            "recall": recall,
            "n_accused": len(accused),
            "accused": accused,
        }
    found["embedded"] = embedded_recall(questions, prose, 200)
    found["template"] = {str(n): template_alarms(n) for n in (3, 10, 30)}
    found["seconds_100k"] = timed(100_000)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
