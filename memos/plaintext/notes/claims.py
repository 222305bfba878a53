"""What a text claims that a later text can take back: states, quantities, dates, denials. English only.

    I moved from Rome to Oslo.           state     (i, home) = oslo
    Ann's home town is Lisbon.           state     (ann, home town) = lisbon
    My library has 52 sources now.       quantity  source = 52, about {librari, ...}
    The call is on April 22 at 11 AM.    date      4-22 11:00, about {call, ...}
    I have never used Zotero.            denial    about {zotero}

Two claims *clash* when they give different values to one thing. A quantity or a date is of one thing with another when
the words around them agree and the same person says both; both sides of a denial when the denied words are said of the
same person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memos.plaintext.analysis import STOP_WORDS, terms, words
from memos.plaintext.dates import MONTHS, WEEKDAYS

STATE, QUANTITY, DATE, DENIAL = "state", "quantity", "date", "denial"
#: Characters of a text that are read, and words on either side that say what a number counts.
READ, AROUND = 2_000, 9
#: Content words that must agree around two quantities or dates, and their least share of the smaller set.
AGREED, SHARE = 2, 0.25
#: Least share of the denied words that the other text must hold.
DENIED = 0.35
#: What a number counts that stands alone behind "has now reached": anything named around it.
ANY = "count ?"
SELF = "i"
#: Authors who advise and do not tell of themselves: what they say takes nothing back that somebody said.
MACHINES = frozenset({"assistant", "ai", "bot", "system", "model", "tool"})

_CODE = re.compile(r"```.*?(?:```|$)", re.S)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“])|\n+|;\s")
_NAME = r"[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)?"
_WHO = rf"(?P<who>I|we|{_NAME}|(?:my|our) [a-z]+)"
_ADVERB = r"(?: (?:now|just|recently|finally|currently|have|has|had|ve|actually|already|also|am|is|are|was|been))*"
_ENDS = r"(?:and|but|because|since|after|where|which|who|so|when|while)\b"
_VALUE = rf"(?P<value>(?!to be\b)[\w$€£%@’'-]+(?: (?!{_ENDS})[\w$€£%@’'-]+){{0,5}})"
_I = re.compile(r"\bI['’](?=ve\b|m\b)")

_WORKS = "(?:works?|worked|working|started working|started)"
_STATES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("home", re.compile(rf"\b{_WHO}{_ADVERB} (?:lives?|lived|living|resides?|based) in {_VALUE}")),
    ("home", re.compile(rf"\b{_WHO}{_ADVERB} (?:moved|relocated|moving)(?: from [\w’' -]+?)?(?: back)? to {_VALUE}")),
    (
        "employer",
        re.compile(rf"\b{_WHO}{_ADVERB} (?:works?|worked|working|started working|started) (?:at|for) {_VALUE}"),
    ),
    ("employer", re.compile(rf"\b{_WHO}{_ADVERB} (?:joined) {_VALUE}")),
    (
        "job",
        re.compile(rf"\b{_WHO}{_ADVERB} (?:works?|worked|working|started working|started) as (?:an? |the )?{_VALUE}"),
    ),
    ("age", re.compile(rf"\b{_WHO}{_ADVERB} (?:turned )?(?P<value>\d{{1,3}})(?: years old)\b")),
    ("partner", re.compile(rf"\b{_WHO}{_ADVERB} (?:married|engaged|dating)(?: to)? {_VALUE}")),
)
_OWNED = re.compile(
    rf"\b(?P<who>[Mm]y|[Oo]ur|{_NAME}['’]s) (?P<what>[a-z][\w-]*(?: [a-z][\w-]*){{0,3}}?)"
    rf" (?:is|was|are|were|has become|became|changed to)(?: now| called| named)? (?:an? |the )?{_VALUE}"
)
_OF = re.compile(
    rf"\b[Tt]he (?P<what>[a-z][\w-]*(?: [a-z][\w-]*)?) of (?P<who>(?:the |an? )?[\w’'-]+(?: [\w’'-]+){{0,3}}?)"
    rf" (?:is|was|are|were)(?: now)? (?:an? |the )?{_VALUE}"
)
_NUMBER = re.compile(
    r"(?<![\w.,/:-])(?P<money>[$€£])?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?P<unit>%|[a-z]{1,3}\b)?"
)
_MONTH_DAY = re.compile(
    rf"\b(?P<month>{'|'.join(MONTHS)}) (?P<day>[0-3]?\d)(?:st|nd|rd|th)?\b(?! ?%)"
    r"(?:,? (?:19|20)\d\d)?(?:,? at (?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?P<half>[AaPp]\.?[Mm]))?",
    re.I,
)
_DENIAL = re.compile(
    rf"\b{_WHO}{_ADVERB} (?:never|no longer|didn['’]?t ever|stopped|quit|gave up)(?: actually| ever| really)?"
    r" (?P<value>[^.!?;,\n]+)"
)
_NAMING = re.compile(
    r"\b(?:number|no|nr|room|page|step|chapter|version|level|line|day|session|part|section|port|gate|flight|issue|v)\.?\s*#?$",
    re.I,
)
_REACHED = re.compile(
    r"\b(?:reached|(?:grown|increased|decreased|risen|fallen|changed|went up) to|now(?: at)?|total of)\s*$", re.I
)
_NUMBER_WORDS = {
    w: str(n) for n, w in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)
}
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.I)
_SAME_PERSON = frozenset({"i", "we", "my", "our"})


@dataclass(frozen=True, slots=True)
class Claim:
    """Something said of something: ``thing`` must be equal and ``about`` agree for two of them to be compared."""

    kind: str
    thing: str
    value: str
    about: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Said:
    """What one text claims. ``who`` is its author, ``stems`` all its content words."""

    who: str
    claims: tuple[Claim, ...]
    stems: frozenset[str]


@dataclass(frozen=True, slots=True)
class Clash:
    """What one text takes back of another, in words, and of what kind the claim is."""

    kind: str
    told: str


def said(text: str, author: str | None, stems: frozenset[str] | None = None) -> Said:
    """Return the claims of a text; "I" and "my" are its author's. ``stems`` are its content words, if known already."""
    who = author.casefold() if author else SELF
    if who in MACHINES:
        return Said(who, (), frozenset())
    prose = _I.sub("I ", _CODE.sub(" ", text)[:READ])
    sentences = [sentence for sentence in _SENTENCE.split(prose) if sentence and sentence.strip()]
    found = dict.fromkeys(claim for sentence in sentences for claim in _claims(sentence, who))
    if stems is None or len(text) > READ or "```" in text:
        stems = frozenset(terms(prose))
    return Said(who, tuple(found), stems)


def clash(new: Said, old: Said) -> Clash | None:
    """Return what the ``new`` text takes back of the ``old`` one; ``None`` if nothing."""
    for claim in new.claims:
        for other in old.claims:
            if _differ(claim, other) and (claim.kind == STATE or new.who == old.who):
                return Clash(claim.kind, f"{claim.thing}: {other.value} -> {claim.value}")
        if claim.kind == DENIAL and _said_otherwise(claim, new, old):
            return Clash(DENIAL, f"denied: {claim.value}")
    for other in old.claims:
        if other.kind == DENIAL and _said_otherwise(other, old, new):
            return Clash(DENIAL, f"no longer denied: {other.value}")
    return None


# ---------------------------------------------------------------- finding


def _claims(sentence: str, who: str) -> Iterator[Claim]:
    yield from _states(sentence, who)
    yield from _quantities(sentence)
    yield from _dates(sentence)
    for match in _DENIAL.finditer(sentence):
        about = frozenset(terms(match["value"]))
        if about:
            yield Claim(DENIAL, _person(match["who"], who), " ".join(match["value"].split()[:8]), about)


def _states(sentence: str, who: str) -> Iterator[Claim]:
    if sentence.rstrip().endswith("?"):
        return
    for name, pattern in _STATES:
        for match in pattern.finditer(sentence):
            yield Claim(STATE, f"{_person(match['who'], who)}'s {name}", _value(match["value"]))
    for pattern in (_OWNED, _OF):
        for match in pattern.finditer(sentence):
            value = _value(match["value"])
            if value and match["what"] not in STOP_WORDS:
                yield Claim(STATE, f"{_person(match['who'], who)}'s {match['what']}", value)


def _quantities(sentence: str) -> Iterator[Claim]:
    bare = _MONTH_DAY.sub(lambda match: " " * len(match.group()), sentence)
    for match in _NUMBER.finditer(_spelt(bare)):
        number, after = match["number"].replace(",", ""), bare[match.end() :]
        if re.fullmatch(r"(?:19|20)\d\d", number) and not match["money"]:
            continue  # a year
        if _NAMING.search(bare[: match.start()]):
            continue  # "room 12" counts nothing
        unit = match["money"] or match["unit"] or next(iter(terms(" ".join(_clause(after).split()[:3]))), "")
        about = frozenset(terms(_near(bare, match.start(), match.end())))
        if unit and about:
            yield Claim(QUANTITY, f"count {unit}", number, about)
        elif about and _REACHED.search(bare[: match.start()]):
            yield Claim(QUANTITY, ANY, number, about)


def _dates(sentence: str) -> Iterator[Claim]:
    bare = _MONTH_DAY.sub(lambda match: " " * len(match.group()), sentence)
    for match in _MONTH_DAY.finditer(sentence):
        about = frozenset(terms(_near(bare, match.start(), match.end()))) - frozenset(WEEKDAYS)
        hour = f" {match['hour']}:{match['minute'] or '00'} {match['half'].lower()}" if match["hour"] else ""
        yield Claim(DATE, "date", f"{match['month'].lower()} {int(match['day'])}{hour}", about)


def _spelt(text: str) -> str:
    """Write small numbers in digits, in as many characters as before."""
    return _NUMBER_WORD.sub(lambda match: _NUMBER_WORDS[match.group().lower()].ljust(len(match.group())), text)


def _clause(text: str) -> str:
    """Return a text up to the first mark that ends a clause."""
    return re.split(r"[,.;:!?()]", text, maxsplit=1)[0]


def _near(sentence: str, start: int, end: int) -> str:
    return " ".join([*sentence[:start].split()[-AROUND:], *sentence[end:].split()[:AROUND]])


def _person(who: str, author: str) -> str:
    """Return whom a subject means: "I" and "my" the author, "my sister" the author's sister."""
    low = re.sub(r"['’]s$", "", who.strip()).casefold()
    first, _, rest = low.partition(" ")
    if first in _SAME_PERSON:
        return f"{author}'s {rest}" if rest else author
    return low.removeprefix("the ")


def _value(text: str) -> str:
    return " ".join(word for word in words(text) if word not in {"a", "an", "the", "now"})


# ---------------------------------------------------------------- comparing


def _differ(new: Claim, old: Claim) -> bool:
    if new.kind != old.kind or new.kind == DENIAL or not _same_thing(new, old):
        return False
    if new.kind == STATE:
        mine, theirs = set(terms(new.value)), set(terms(old.value))
        return bool(mine and theirs) and not (mine <= theirs or theirs <= mine)
    return new.value != old.value and _agree(new.about, old.about)


def _same_thing(new: Claim, old: Claim) -> bool:
    if new.thing == ANY:
        return old.thing.removeprefix("count ") in new.about
    return new.thing == old.thing


def _agree(one: Iterable[str], other: Iterable[str]) -> bool:
    mine, theirs = set(one), set(other)
    common = mine & theirs
    return len(common) >= AGREED and len(common) >= SHARE * min(len(mine), len(theirs))


def _said_otherwise(denial: Claim, denier: Said, other: Said) -> bool:
    """Return whether the other text, of the same person, speaks of what is denied and does not deny it as well."""
    if denier.who != other.who or any(
        claim.kind == DENIAL and _agree(claim.about, denial.about) for claim in other.claims
    ):
        return False
    common = denial.about & other.stems
    return len(common) >= AGREED and len(common) >= DENIED * len(denial.about)
