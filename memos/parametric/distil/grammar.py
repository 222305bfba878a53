"""The little English that is needed to turn a sentence around into a question: subjects, verbs, and what follows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from memos.plaintext.dates import MONTHS, WEEKDAYS

#: Verbs whose object can be asked for with "what": base, third person, past.
_PLAIN = """
adopt adopts adopted, brew brews brewed, bring brings brought, build builds built, buy buys bought, collect collects
collected, cook cooks cooked, drink drinks drank, drive drives drove, eat eats ate, enjoy enjoys enjoyed, hate hates
hated, have has had, keep keeps kept, learn learns learned, like likes liked, love loves loved, need needs needed, order
orders ordered, own owns owned, paint paints painted, plan plans planned, play plays played, prefer prefers preferred,
read reads read, repair repairs repaired, ride rides rode, see sees saw, sell sells sold, speak speaks spoke, study
studies studied, take takes took, teach teaches taught, use uses used, visit visits visited, want wants wanted, wear
wears wore, win wins won, write writes wrote
"""
#: Verbs of a place, and the prepositions that belong to the verb rather than to the place.
_PLACED = "live lives lived, stay stays stayed, work works worked, study studies studied, sleep sleeps slept"
_DIRECTED = "move moves moved, come comes came, go goes went, travel travels travelled, fly flies flew"
#: Verbs whose object is asked for with "who".
_PERSONAL = "marry marries married, meet meets met, know knows knew, miss misses missed, help helps helped"


@dataclass(frozen=True, slots=True)
class Verb:
    """A form of a verb: ``base`` is what follows "do", ``past`` says which "do"."""

    base: str
    past: bool


def _forms(table: str) -> dict[str, Verb]:
    found: dict[str, Verb] = {}
    for entry in table.split(","):
        base, third, past = entry.split()
        found |= {past: Verb(base, past=True), base: Verb(base, past=False), third: Verb(base, past=False)}
    return found


PLAIN, PLACED, DIRECTED, PERSONAL = (_forms(table) for table in (_PLAIN, _PLACED, _DIRECTED, _PERSONAL))

_NAME = r"(?:(?:Mr|Mrs|Ms|Dr|St)\. )?[A-Z][\w’'-]*(?: [A-Z][\w’'-]*)*"
#: Who or what a sentence is about: I, we, a name, or one of mine, ours or the known.
SUBJECT = rf"(?:I|We|(?:My|Our|The) [a-z][\w-]*(?: [a-z][\w-]*)?|(?!(?:He|She|It|They|You|This|That|There)\b){_NAME})"
OWNER = rf"(?:My|Our|{_NAME}[’']s?)"
DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?(?: of)? (?:{'|'.join(MONTHS)})(?:,? \d{{4}})?"
    rf"|(?:{'|'.join(MONTHS)})(?: \d{{1,2}}(?:st|nd|rd|th)?)?(?:,? \d{{4}})?"
    rf"|\d{{4}}-\d\d-\d\d|(?:19|20)\d\d|(?:{'|'.join(WEEKDAYS)})s?|\d{{1,2}}(?::\d\d)?(?: ?[ap]m)|\d{{1,2}}:\d\d)"
)
#: A date at the end of what is said, with its preposition.
_TIMED = re.compile(rf"^(?P<rest>.+?) (?:on|in|at|since) (?P<date>{DATE}(?: at {DATE})?)$", re.I)
IS_DATE = re.compile(rf"^(?:on |in |at )?(?P<date>{DATE}(?: at {DATE})?)$", re.I)
_REST = re.compile(
    r"(?:[,;(]|: | because | but | since (?!\d)| while | when | which | who | so (?!that)|"
    r" and (?=(?:I|we|he|she|they|it|has|have|is|was)\b)).*$"
)
_VAGUE = re.compile(r" (?:today|yesterday|tomorrow|now|again|recently|(?:last|next|this) \w+)$", re.I)


def clipped(said: str) -> tuple[str, str | None]:
    """Return the first thing that is said, without what follows it, and the date at its end."""
    said = _VAGUE.sub("", _REST.sub("", said).strip(" .!?\"'"))
    match = None if IS_DATE.match(said) else _TIMED.match(said)
    return (match["rest"], match["date"]) if match else (said, None)


def inside(subject: str) -> str:
    """Return a subject as it stands within a sentence."""
    first = subject.split(" ", 1)[0]
    return subject[0].lower() + subject[1:] if first in ("My", "Our", "The", "We") else subject


def do(subject: str, verb: Verb) -> str:
    """Return the auxiliary of a question."""
    return "did" if verb.past else "do" if subject in ("I", "we") else "does"


def agreeing(subject: str, verb: Verb, form: str) -> str:
    """Return the form of a verb that goes with a subject: the one that stood in the sentence, for another person."""
    if verb.past:
        return form
    own = subject in ("I", "we")
    known = [name for name, one in ALL.items() if one == verb]
    return verb.base if own else next((name for name in known if name != verb.base), form)


ALL = {**PERSONAL, **DIRECTED, **PLACED, **PLAIN}


def to_be(subject: str, form: str) -> str:
    """Return the form of "be" that goes with a subject, in the tense of ``form``."""
    if form in ("was", "were"):
        return "were" if subject == "we" else "was"
    return {"I": "am", "we": "are"}.get(
        subject, "are" if form == "are" and subject.startswith(("my ", "the ")) else "is"
    )
