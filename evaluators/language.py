"""Which language is a text written in? By py3langid, which carries its model: offline, and no chance in it.

Chosen over langdetect, which IFEval uses: that one draws random numbers, and of 13 short sentences in ten languages it
took two for another language (Dutch, Chinese), py3langid none. Single words are beyond both.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def known_languages() -> frozenset[str]:
    """Return the codes of all languages that can be told."""
    return frozenset(_identifier(()).labels)


def language_of(text: str, among: tuple[str, ...] = ()) -> str | None:
    """Return the code of the likeliest language, or None where the text says nothing, as a number does.

    Args:
        text: The text.
        among: Codes to choose from; none stands for all.
    """
    if not any(character.isalpha() for character in text):
        return None
    code: str = _identifier(tuple(sorted(set(among)))).classify(text)[0]
    return code


@cache
def _identifier(among: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(among or None)
    return identifier
