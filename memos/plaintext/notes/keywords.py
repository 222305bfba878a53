"""What a text is about, in a few words: YAKE (Campos et al. 2020, Information Sciences 509), unsupervised."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from memos.plaintext.analysis import STOP_WORDS, terms, words
from memos.plaintext.dates import MONTHS, WEEKDAYS
from memos.plaintext.notes.attributes import MAX_TERM

#: Characters of a text that keywords are taken from: what it is about stands near its beginning.
READ = 2_000
#: Texts of fewer content words are their own keywords.
SHORT = 4
DEFAULT_LANGUAGE = "en"
#: Times and interjections: A-MEM's keywords name neither.
_IDLE = frozenset(
    """
    yesterday today tomorrow tonight morning afternoon evening night day days week weeks weekend month months year years
    hour hours minute minutes ago last next recently lately soon yeah yep nope ok okay hey hi hello thanks thank wow oh
    haha great really actually definitely totally gonna wanna let lets got get getting
    """.split()
) | {*MONTHS, *WEEKDAYS}
_CODE = re.compile(r"```.*?(?:```|$)", re.S)
_LANGUAGES = frozenset(
    "ar bg br cz da de el en es et fa fi fr hi hr hu hy id it ja lt lv nl no pl pt ro ru sk sl sv tr uk zh".split()
)


def keywords(text: str, language: str | None, avoided: frozenset[str], limit: int) -> tuple[str, ...]:
    """Return up to ``limit`` words or pairs of words, most telling first, lower case; none of the ``avoided`` ones."""
    prose, avoided = _CODE.sub(" ", text)[:READ], avoided | _IDLE
    content = list(dict.fromkeys(word for word in words(prose) if word not in STOP_WORDS and word not in avoided))
    if len(content) <= SHORT:
        return tuple(content[:limit])
    found = list(_distinct((phrase for phrase, _ in _extractor(language).extract_keywords(prose)), avoided))
    return tuple(found[:limit]) or tuple(content[:limit])


def _distinct(phrases: Iterator[str], avoided: frozenset[str]) -> Iterator[str]:
    """Yield phrases that say something new: not the stems of an earlier one again, and no avoided word."""
    said: set[frozenset[str]] = set()
    for phrase in phrases:
        low = " ".join(phrase.lower().split())
        stems = frozenset(terms(low))
        if not stems or len(low) > MAX_TERM or avoided.intersection(words(low)) or any(stems <= one for one in said):
            continue
        said.add(stems)
        yield low


@functools.lru_cache(maxsize=8)
def _extractor(language: str | None) -> Any:
    import yake  # takes a while: networkx

    known = language if language in _LANGUAGES else DEFAULT_LANGUAGE
    return yake.KeywordExtractor(lan=known, n=2, dedupLim=0.8, top=30)
