"""From the words of a question to a :class:`memos.plaintext.ranking.Query`: names, dates, terms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from memos.clock import from_us
from memos.plaintext.analysis import terms, words
from memos.plaintext.dates import Period, periods
from memos.store.view import NamespaceView

#: Speakers that are parts in a chat, not names a question would use.
ROLES = frozenset({"user", "assistant", "system", "human", "ai", "bot", "tool"})
LEAST_TURNS = 3
_MOST_YEARS = 50


@dataclass(frozen=True, slots=True)
class Question:
    """What a question asks for, before it is embedded.

    ``bare`` is its text without the names of known speakers: whom it is about is scored by who spoke, and a name that
    stands in half of all memories would only pull the vector towards itself.
    """

    text: str
    bare: str
    terms: tuple[str, ...]
    speaker: str | None
    periods: tuple[Period, ...]


def understand(text: str, view: NamespaceView, reference: datetime) -> Question:
    """Analyse a question against what a namespace knows."""
    named = named_speakers(words(text), view.turns)
    names = {word for name in named for word in words(name)}
    skipped = {stem for name in names for stem in terms(name)}
    bare = _without(text, names)
    return Question(
        text=text,
        bare=bare or text,
        terms=tuple(dict.fromkeys(term for term in terms(text) if term not in skipped)),
        speaker=named[0] if len(named) == 1 else None,
        periods=tuple(periods(text, reference, _years(view))),
    )


def named_speakers(question_words: Iterable[str], turns: Mapping[str, int]) -> list[str]:
    """Return the speakers whose first name the question holds; ``turns`` counts the memories of each speaker.

    One who spoke less than :data:`LEAST_TURNS` times may be no speaker at all ("Note: buy milk").
    """
    spoken = set(question_words)
    return [
        name
        for name, count in turns.items()
        if count >= LEAST_TURNS and name.lower() not in ROLES and _first_word(name) in spoken
    ]


def _first_word(name: str) -> str:
    return next(words(name), "")


def _without(text: str, names: Iterable[str]) -> str:
    for name in names:
        text = re.sub(rf"\b{re.escape(name)}\b(?:['’]s\b)?", "", text, flags=re.IGNORECASE)
    return " ".join(text.split())


def _years(view: NamespaceView) -> range:
    """Return the years that live memories speak of."""
    return view.derived("years", lambda: _span(view.event_time[view.current]))


def _span(times: NDArray[np.int64]) -> range:
    if not len(times):
        return range(0)
    first, last = from_us(int(times.min())).year, from_us(int(times.max())).year
    return range(max(first, last - _MOST_YEARS), last + 1)
