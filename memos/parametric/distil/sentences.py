"""Questions and answers in plain English sentences, found without a model: a few forms, and the last words else.

Ann's home town is Lisbon.        whose what?            Lisbon
I work for Nightjar Robotics.     who do I work for?     Nightjar Robotics
My sister adopted a cat in May.   what? when?            a cat; May
The spare key is under the pot.   where is it?           under the pot
Blue herons nest by the old mill. how does it go on?     the old mill
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from memos.parametric.distil import templates
from memos.parametric.distil.grammar import (
    ALL,
    DIRECTED,
    IS_DATE,
    OWNER,
    PERSONAL,
    PLACED,
    PLAIN,
    SUBJECT,
    Verb,
    agreeing,
    clipped,
    do,
    inside,
    to_be,
)
from memos.parametric.distil.templates import Ways
from memos.plaintext.analysis import STOP_WORDS

#: Most words of an answer; fewest of a sentence that can be completed.
MAX_WORDS, MIN_WORDS = 10, 5
ARTICLES = ("the", "a", "an", "my", "our", "his", "her")

_SENTENCES = re.compile(r"(?<!\bMr\.)(?<!\bDr\.)(?<!\bMs\.)(?<!\bSt\.)(?<!\bMrs\.)(?<=[.!?])\s+(?=[A-Z\"'])|\n+")
_OWNED = re.compile(rf"^(?P<owner>{OWNER}) (?P<what>[a-z][\w’' -]*?) (?:is|are|was|were) (?P<said>.+)$")
_OF = re.compile(
    rf"^The (?P<what>[a-z][\w -]*?) of (?P<owner>{OWNER} [a-z][\w-]*|{SUBJECT}|[tT]he [a-z][\w-]*) "
    r"(?:is|are|was|were) (?P<said>.+)$"
)
_BORN = re.compile(rf"^(?P<subject>{SUBJECT}) (?P<be>was|were) born (?:in|on|at) (?P<said>.+)$")
_STATE = re.compile(
    rf"^(?P<subject>{SUBJECT}) (?P<be>is|am|are|was|were) "
    r"(?P<state>allergic to|afraid of|good at|interested in|called|named|married to|engaged to|from) (?P<said>.+)$"
)
_IS = re.compile(rf"^(?P<subject>{SUBJECT}) (?P<be>is|am|are|was|were) (?P<said>.+)$")
_DOES = re.compile(
    rf"^(?P<subject>{SUBJECT}) (?P<form>{'|'.join(sorted(ALL, key=len, reverse=True))})"
    r"(?: (?P<link>in|at|near|on|to|from|for|as|with|by|about))? (?P<said>.+)$"
)
_SPOT = re.compile(r"^(?:in|at|on|under|behind|near|beside|between|next to|inside|above|below)\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """Something that can be asked: ``ways`` are those to ask it of ``subject``, or of anybody else."""

    subject: str
    answer: str
    ways: Callable[[str], Ways]


def asked_in(text: str, keywords: Sequence[str] = ()) -> Iterator[Asked]:
    """Yield what can be asked about a text, sentence by sentence; ``keywords`` are what it is about."""
    for sentence in _SENTENCES.split(text):
        whole = " ".join(sentence.split())
        found = [one for one in _understood(whole) if one.answer and len(one.answer.split()) <= MAX_WORDS]
        yield from found or _completed(whole, keywords)


def _understood(sentence: str) -> Iterator[Asked]:
    if match := _OWNED.match(sentence) or _OF.match(sentence):
        yield from _attribute(match)
    elif match := _BORN.match(sentence) or _STATE.match(sentence):
        yield from _state(match)
    elif match := _IS.match(sentence):
        yield from _being(match)
    elif match := _DOES.match(sentence):
        yield from _doing(match)


def _attribute(match: re.Match[str]) -> Iterator[Asked]:
    owner, what = re.sub(r"[’']s?$", "", match["owner"]), match["what"]
    said, date = clipped(match["said"])
    answer = f"{said} on {date}" if date and said else said
    yield Asked(inside(owner), _bare_date(answer), lambda somebody: templates.attribute(somebody, what))


def _state(match: re.Match[str]) -> Iterator[Asked]:
    subject, be = inside(match["subject"]), match["be"]
    state = match.groupdict().get("state") or "born"
    said, _ = clipped(match["said"])
    when = state == "born" and IS_DATE.match(said)
    word = (
        "when" if when else {"born": "where", "from": "where"}.get(state, "who" if state.endswith("ied to") else "what")
    )
    yield Asked(subject, said, _be_ways(word, be, f" {state}"))


def _being(match: re.Match[str]) -> Iterator[Asked]:
    subject, be = inside(match["subject"]), match["be"]
    said, date = clipped(match["said"])
    if IS_DATE.match(said):
        yield Asked("", _bare_date(said), lambda _: _be_ways("when", be)(subject))
    elif _SPOT.match(said):
        yield Asked("", said, lambda _: _be_ways("where", be)(subject))
        if date:
            yield Asked("", date, lambda _: _be_ways("when", be, f" {said}")(subject))
    else:
        word = "what" if subject[0].islower() else "who"
        yield Asked(subject, said, _be_ways(word, be))


def _doing(match: re.Match[str]) -> Iterator[Asked]:
    subject, form, link = inside(match["subject"]), match["form"], match["link"] or ""
    verb = ALL[form]
    said, date = clipped(match["said"])
    if word := _word(form, link):
        after = "" if word == "where" and form not in DIRECTED else f" {link}".rstrip()
        yield Asked(subject, said, _do_ways(word, verb, form, after))
        if date:
            yield Asked(subject, date, _do_ways("when", verb, form, f" {link} {said}".replace("  ", " ")))


def _word(form: str, link: str) -> str | None:
    """Return which word asks for what follows a verb and a preposition."""
    if link in ("for", "with"):
        return "who"
    if link in ("as", "about", "by"):
        return "what"
    if link:
        return "where" if form in PLACED or form in DIRECTED else None
    return "who" if form in PERSONAL else "what" if form in PLAIN else None


def _do_ways(word: str, verb: Verb, form: str, after: str) -> Callable[[str], Ways]:
    def ways(subject: str) -> Ways:
        direct = f"{word} {do(subject, verb)} {subject} {verb.base}{after}"
        return templates.asked(direct, f"{word} {subject} {agreeing(subject, verb, form)}{after}")

    return ways


def _be_ways(word: str, form: str, after: str = "") -> Callable[[str], Ways]:
    def ways(subject: str) -> Ways:
        be = to_be(subject, form)
        return templates.asked(f"{word} {be} {subject}{after}", f"{word} {subject} {be}{after}")

    return ways


def _completed(sentence: str, keywords: Sequence[str]) -> Iterator[Asked]:
    """Ask for the end of a sentence: from its last keyword on, or its last words that say something."""
    words = sentence.rstrip(" .!?").split(" ")
    if len(words) < MIN_WORDS:
        return
    count = _from_keyword(words, keywords) or _saying(words)
    start, answer = " ".join(words[:-count]), " ".join(words[-count:])
    yield Asked("", answer, lambda _: templates.cloze(start))


def _from_keyword(words: Sequence[str], keywords: Sequence[str]) -> int:
    """Return how many of the last words begin with a keyword; 0 if that leaves too much or too little."""
    known = {word.lower() for keyword in keywords for word in keyword.split()}
    counts = range(1, min(MIN_WORDS, len(words) - 2))
    return max((count for count in counts if words[-count].lower().strip(",;") in known), default=0)


def _saying(words: Sequence[str]) -> int:
    """Return how many of the last words it takes to say something: an article goes with its noun."""
    count = 1
    while count < 3 and words[-count].lower().strip(",;") in STOP_WORDS:
        count += 1
    before = words[-count - 1]
    return count + int(before.lower() in ARTICLES or before.istitle())


def _bare_date(said: str) -> str:
    match = IS_DATE.match(said)
    return match["date"] if match else said
