"""What several texts say, in their own sentences: those that another one says already are left out, and no others.

So nothing is lost that recall could look for: a sentence goes only if one that stays has its numbers, dates and names,
all but a few of its words, and denies as much. Those in the middle of what is said stay rather than those at its edge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memos.plaintext.analysis import terms, words
from memos.plaintext.dates import MONTHS, WEEKDAYS
from memos.plaintext.notes.duplicates import denies
from memos.plaintext.notes.entities import entities

#: Share of a sentence's content words that may be new in it for it to be left out; where the vectors agree as well, up
#: to the other share.
NEW, NEW_BUT_NEAR = 0.1, 0.3
NEAR = 0.85
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_CODE = re.compile(r"```")
_CAPITAL = re.compile(r"\b[^\W\d_a-z][\w’'-]*")
_WHEN = frozenset({*MONTHS, *WEEKDAYS})

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of text number ``source``: the stems of its content words, and which details it has."""

    text: str
    source: int
    stems: frozenset[str]
    details: frozenset[str]
    denies: bool


def extract(texts: Sequence[str], author: str | None, embed: Embed) -> list[str]:
    """Return what is left of each text; the same whatever the order of the texts, but for sentences that are equal.

    ``embed`` returns unit vectors, float32 ``[n, dimension]``.
    """
    said = [_sentence(part, number, author) for number, text in enumerate(texts) for part in sentences(text)]
    if not said:
        return ["" for _ in texts]
    similar, central = _compared(embed([one.text for one in said]))
    left, standing = set(range(len(said))), set[int]()
    for place in sorted(left, key=lambda one: (central[one], len(said[one].stems), -one)):
        if place in standing:
            continue
        stands = next((one for one in sorted(left) if one != place and _says(said, similar, one, place)), None)
        if stands is not None:
            left.discard(place)
            standing.add(stands)  # it stays: else its own substitute would have to say both
    kept = [said[place] for place in sorted(left)]
    return [" ".join(one.text for one in kept if one.source == number) for number in range(len(texts))]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; one that holds code is kept whole."""
    parts = [text] if _CODE.search(text) else _SENTENCE.split(text)
    return [part.strip() for part in parts if part and part.strip()]


def details(text: str, author: str | None = None) -> frozenset[str]:
    """Return what must not get lost in other words: numbers, days and months, and the stems of names.

    What begins with a capital letter may be a name, also where it begins a sentence.
    """
    said = list(words(text))
    named = {stem for name in (*entities(text, author), *_CAPITAL.findall(text)) for stem in terms(name)}
    return frozenset(word for word in said if word in _WHEN or any(map(str.isdigit, word))) | named


def _sentence(text: str, source: int, author: str | None) -> _Sentence:
    return _Sentence(text, source, frozenset(terms(text)), details(text, author), denies(text))


def _compared(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float]]:
    """Return the cosines of all pairs, and of each with the centroid, rounded: equal texts are equally central."""
    central = vectors @ vectors.mean(0)
    return vectors @ vectors.T, [round(float(one), 5) for one in central]


def _says(said: Sequence[_Sentence], similar: NDArray[np.float32], one: int, other: int) -> bool:
    """Whether sentence ``one`` says what the ``other`` says."""
    mine, theirs = said[one], said[other]
    if not theirs.details <= mine.details | mine.stems or mine.denies != theirs.denies:
        return False
    if mine.text.endswith("?") != theirs.text.endswith("?"):
        return False
    new = len(theirs.stems - mine.stems) / max(1, len(theirs.stems))
    if not theirs.stems:
        return mine.text.casefold() == theirs.text.casefold()
    return new <= (NEW_BUT_NEAR if similar[one, other] >= NEAR else NEW)
