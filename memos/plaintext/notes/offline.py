"""Notes without a model: the same attributes, from how a text is written. Deterministic."""

from __future__ import annotations

import re
from datetime import datetime

from memos.clock import DAY_US, from_us
from memos.plaintext.analysis import STOP_WORDS, words
from memos.plaintext.dates import FULL, periods
from memos.plaintext.notes.attributes import MAX_CONTEXT, MAX_TAGS, MAX_TITLE, Attributes
from memos.plaintext.notes.entities import entities
from memos.plaintext.notes.keywords import keywords
from memos.plaintext.notes.language import language
from memos.plaintext.notes.sensitivity import sensitivity

KEYWORDS = 8
#: Keywords that also become tags, and that are told in a title and a context.
TOPICS, TOLD = 3, 4

#: What form a text has, and what that adds to its importance (Park et al. 2023 rate the mundane low, the lasting high).
_FORMS: tuple[tuple[str, re.Pattern[str], float], ...] = (
    ("code", re.compile(r"```|\bdef \w+\(|\bfunction \w+\(|;\s*\n"), 0.05),
    ("link", re.compile(r"https?://\S+"), 0.05),
    (
        "preference",
        re.compile(
            r"\b(?:prefers?|favou?rite|loves?|likes?|enjoys?|hates?|dislikes?|can['’]t stand|allerg\w+|vegan"
            r"|vegetarian)\b",
            re.I,
        ),
        0.2,
    ),
    (
        "plan",
        re.compile(
            r"\b(?:will|going to|plan(?:s|ned|ning)? to|tomorrow|next (?:week|month|year)|deadline|scheduled)\b", re.I
        ),
        0.15,
    ),
    (
        "change",
        re.compile(
            r"\b(?:moved|changed|switched|no longer|any ?more|instead of|now|quit|updated|renamed|rescheduled"
            r"|cancelled)\b",
            re.I,
        ),
        0.15,
    ),
    (
        "feeling",
        re.compile(r"\b(?:happy|sad|proud|worried|anxious|excited|afraid|angry|stress\w*|nervous)\b", re.I),
        0.05,
    ),
)
_GREETING = re.compile(
    r"^\W*(?:hi|hey|hello|thanks|thank you|bye|good (?:morning|night)|ok(?:ay)?|sure|great|wow)\b", re.I
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def construct(text: str, author: str | None, created: datetime) -> Attributes:
    """Return the attributes of a memory said by ``author``; ``created`` is what "yesterday" counts from."""
    said = without_speaker(text, author)
    spoken = language(said)
    named = entities(said, author, spoken)
    topics = keywords(said, spoken, frozenset(words(author or "")), KEYWORDS)
    forms = form_of(said)
    return Attributes(
        title=title(said),
        keywords=topics,
        tags=_tags(forms, topics),
        context=_context(author, topics, named),
        entities=named,
        language=spoken,
        sensitivity=sensitivity(text),
        importance=_importance(said, forms, named),
        event_time=day_named(said, created),
    )


def without_speaker(text: str, author: str | None) -> str:
    """Return the text without the ``Name: `` it begins with."""
    return text.lstrip().removeprefix(f"{author}:").strip() or text if author else text.strip()


def title(text: str) -> str:
    """Return the first sentence, cut at a word where it is long."""
    first = next((sentence for sentence in _SENTENCE.split(text.strip()) if sentence.strip()), text).strip()
    if len(first) <= MAX_TITLE:
        return first
    return first[: MAX_TITLE - 1].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def form_of(text: str) -> tuple[str, ...]:
    """Return which forms a text has: question, code, preference, plan, ..."""
    asks = ("question",) if text.rstrip().endswith("?") else ()
    return (*asks, *(name for name, pattern, _ in _FORMS if pattern.search(text)))


def day_named(text: str, reference: datetime) -> datetime | None:
    """Return the beginning of the one day that a text names, relative to ``reference`` or in full."""
    found = periods(text, reference, range(reference.year, reference.year + 1))
    days = {period.start for period in found if period.weight == FULL and period.end - period.start == DAY_US}
    return from_us(days.pop()) if len(days) == 1 else None


def _tags(forms: tuple[str, ...], topics: tuple[str, ...]) -> tuple[str, ...]:
    single = [topic for topic in topics if " " not in topic] or list(topics)
    return tuple(dict.fromkeys([*(forms or ("statement",)), *single[:TOPICS]]))[:MAX_TAGS]


def _context(author: str | None, topics: tuple[str, ...], named: tuple[str, ...]) -> str | None:
    """Return one sentence on who speaks of what."""
    about = list(dict.fromkeys([*topics[:TOLD], *(name for name in named[:2] if name.lower() not in topics)]))
    if not about:
        return None
    listed = about[0] if len(about) == 1 else f"{', '.join(about[:-1])} and {about[-1]}"
    return f"{author or 'A note'} on {listed}."[:MAX_CONTEXT]


def _importance(text: str, forms: tuple[str, ...], named: tuple[str, ...]) -> float:
    content = sum(word not in STOP_WORDS for word in words(text))
    weight = 0.2 + 0.2 * min(content, 20) / 20 + 0.05 * min(len(named), 4)
    weight += sum(worth for name, _, worth in _FORMS if name in forms)
    weight += 0.1 * any(character.isdigit() for character in text)
    if "question" in forms and content < 12:
        weight -= 0.2
    if _GREETING.match(text) and content < 6:
        weight -= 0.2
    return round(min(1.0, max(0.0, weight)), 3)
