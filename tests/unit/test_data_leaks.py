"""Leaks: planted ones are found and named, rows that only look alike are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from search.data.leaks import Leak, Seen, find_leaks
from search.data.words import RowWords, row_words, words_of

OTHER, MEASURED = Seen("train", "chat"), Seen("holdout", "asks")
FILLING = [
    "How deep is the Baltic Sea at its deepest point?",
    "Which instrument did Clara Schumann play on her tours?",
    "Why do some bridges carry a narrow gap between two slabs?",
    "Who translated the sagas of Iceland into modern English?",
    "What makes bread rise when no yeast is at hand?",
    "Where were the first lighthouses built along this coast?",
]
PASSAGE = (
    "The lighthouse keeper wrote down every ship that passed the cape, and on quiet nights he added "
    "what the wind had been doing to the sea."
)


def prompts(texts: Sequence[str]) -> list[RowWords]:
    return [row_words({"prompt": text}, "prompt") for text in texts]


def leaks(others: Sequence[RowWords], measured: Sequence[RowWords]) -> list[Leak]:
    return find_leaks({OTHER: others}, {MEASURED: measured}).get((OTHER, MEASURED), [])


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {
        "messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]
    }


def test_words_know_no_case_no_punctuation_and_no_spacing() -> None:
    assert words_of("  Don\u2019t  PANIC --\tit's 3.5%! ") == ("dont", "panic", "its", "3", "5")
    assert words_of("\uff21\uff22 stra\u00dfe") == ("ab", "strasse")
    assert words_of("\u4f60\u597d") == ("\u4f60", "\u597d")
    assert words_of(" \U0001f642 !") == ("\U0001f642", "!")


def test_signs_of_arithmetic_are_words() -> None:
    assert words_of("3 + 4") == ("3", "+", "4")
    assert leaks(prompts(["What is 3 + 4?"]), prompts(["What is 3 - 4?", "what is 3+4"])) == [
        Leak("same", 0, 1)
    ]


def test_same_question_is_found_whatever_its_case_and_punctuation() -> None:
    measured = ["Name a river.", " how DEEP is the Baltic sea, at its deepest point "]
    assert leaks(prompts(FILLING), prompts(measured)) == [Leak("same", 0, 1)]


@pytest.mark.parametrize(
    "question",
    [
        "how deep was the Baltic Sea -- at its deepest point!",
        "How deep is the Baltic Sea really, at its deepest point?",
        "How deep is Baltic Sea at its deepest point?",
    ],
)
def test_question_with_a_changed_word_and_other_punctuation_is_near(question: str) -> None:
    assert leaks(prompts(FILLING), prompts(["Name a river.", question])) == [Leak("near", 0, 1)]


def test_question_inside_a_longer_document_is_found() -> None:
    document = f"Exercises for travellers. {FILLING[0].upper()} {PASSAGE}"
    texts = [row_words({"text": text}, "text") for text in (PASSAGE[::-1], document)]
    assert leaks(texts, prompts(FILLING)) == [Leak("contained", 1, 0)]


def test_short_question_inside_another_is_found_from_five_words_on_and_is_a_phrase_if_many_hold_it() -> (
    None
):
    trained = [f"{text} So where do the owls sleep at noon, {text}" for text in FILLING]
    assert leaks(prompts(trained[:1]), prompts(["Where do the owls sleep"])) == [
        Leak("contained", 0, 0)
    ]
    assert leaks(prompts(trained[:1]), prompts(["Do the owls sleep"])) == []
    assert leaks(prompts([*trained, *trained]), prompts(["Where do the owls sleep"])) == []


def test_passage_of_a_measured_text_in_an_answer_is_found() -> None:
    quoted = " ".join(PASSAGE.split()[3:17])  # 14 words: two runs of 13
    rows = [row_words(chat("Tell me a story.", f"Gladly. {quoted}, they say."), "messages")]
    text = [row_words({"text": f"Once upon a time there was rain. {PASSAGE}"}, "text")]
    assert leaks(rows, text) == [Leak("contained", 0, 0)]


def test_twelve_words_in_common_are_not_a_passage() -> None:
    quoted = " ".join(PASSAGE.split()[3:15])
    rows = [row_words(chat("Tell me a story.", f"Gladly. {quoted}, they say."), "messages")]
    assert leaks(rows, [row_words({"text": PASSAGE}, "text")]) == []


def test_long_answer_that_was_trained_on_is_found_under_another_question() -> None:
    rows = [row_words(chat("Tell me a story.", PASSAGE), "messages")]
    pair = {"prompt": "What did he do?", "chosen": PASSAGE, "rejected": "Nothing."}
    assert leaks(rows, [row_words(pair, "preference")]) == [Leak("contained", 0, 0)]


def test_equal_short_answers_do_not_leak() -> None:
    rows = [row_words(chat("Is the sea salty?", "Yes, it is."), "messages")]
    pair = {"prompt": "Can owls see at night?", "chosen": "Yes, it is.", "rejected": "No."}
    assert leaks(rows, [row_words(pair, "preference")]) == []


def test_second_turn_of_a_conversation_is_a_question_of_its_own() -> None:
    rows = [row_words(chat("Hello!", "Hi.", FILLING[1], "The piano."), "messages")]
    assert leaks(rows, prompts([FILLING[1]])) == [Leak("same", 0, 0)]
    both = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": FILLING[1]}]  # fmt: skip
    assert leaks(rows, [row_words({"prompt": both}, "prompt")]) == [Leak("same", 0, 0)]


def test_system_messages_are_no_questions() -> None:
    system = {"role": "system", "content": PASSAGE}
    rows = [
        row_words({"prompt": [system, {"role": "user", "content": text}]}, "prompt")
        for text in FILLING
    ]
    assert leaks(rows[:3], rows[3:]) == []


@pytest.mark.parametrize("n_trained", [2, 5, 20])
def test_rows_of_one_template_do_not_leak_from_each_other(n_trained: int) -> None:
    names = [f"{a}{b}" for a in ("Bel", "Dor", "Fan", "Kir", "Lum", "Mos", "Nal", "Pet")
             for b in ("avia", "enia", "istan", "onia")]  # fmt: skip
    long = "Please read the question with care and answer it in one short sentence: what is the capital of {}?"
    for template in ("What does the {} eat?", long):
        rows = prompts([template.format(name) for name in names])
        assert leaks(rows[:n_trained], rows[n_trained:]) == []


def test_other_numbers_make_another_question() -> None:
    trained = ["Take 7 from 12 and say what is left.", *FILLING]
    measured = ["Take 12 from 7 and say what is left.", "Take 7 from 13 and say what is left."]
    assert leaks(prompts(trained), prompts(measured)) == []


def test_short_question_is_not_the_near_duplicate_of_one_that_holds_it() -> None:
    trained = [*FILLING, "Tell me a story about a grey cat in Venice"]
    assert leaks(prompts(trained), prompts(["Tell me a story"])) == []


def test_phrase_of_more_than_ten_rows_counts_for_nothing() -> None:
    phrase = "and they lived happily ever after until the very end of all their days"  # 14 words
    trained = [row_words({"text": f"{text} {phrase}"}, "text") for text in FILLING * 2]
    measured = [row_words({"text": f"{PASSAGE} {phrase}"}, "text")]
    assert leaks(trained[:5], measured) != []
    assert len(trained) == 12
    assert leaks(trained, measured) == []


def test_leaks_are_told_by_pair_of_sources() -> None:
    other = Seen("search", "more")
    found = find_leaks(
        {OTHER: prompts(FILLING[:2]), other: prompts(FILLING[1:3])}, {MEASURED: prompts(FILLING)}
    )
    assert found == {
        (OTHER, MEASURED): [Leak("same", 0, 0), Leak("same", 1, 1)],
        (other, MEASURED): [Leak("same", 0, 1), Leak("same", 1, 2)],
    }


def test_sources_without_rows_have_no_leaks() -> None:
    assert find_leaks({}, {MEASURED: prompts(FILLING)}) == {}
    assert find_leaks({OTHER: []}, {MEASURED: []}) == {}
