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

_WORKS = r"(?:works?|worked|working|started working|started)"
#: What a state is, what a sentence that tells one holds, so that most are not searched for it, and how it is told.
_STATES: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    (
        "home",
        ("liv", "resid", "based"),
        re.compile(rf"\b{_WHO}{_ADVERB} (?:lives?|lived|living|resides?|based) in {_VALUE}"),
    ),
    (
        "home",
        ("mov", "relocated"),
        re.compile(rf"\b{_WHO}{_ADVERB} (?:moved|relocated|moving)(?: from [\w’' -]+?)?(?: back)? to {_VALUE}"),
    ),
    ("employer", ("work", "started"), re.compile(rf"\b{_WHO}{_ADVERB} {_WORKS} (?:at|for) {_VALUE}")),
    ("employer", ("joined",), re.compile(rf"\b{_WHO}{_ADVERB} (?:joined) {_VALUE}")),
    ("job", ("work", "started"), re.compile(rf"\b{_WHO}{_ADVERB} {_WORKS} as (?:an? |the )?{_VALUE}")),
    ("age", ("years old",), re.compile(rf"\b{_WHO}{_ADVERB} (?:turned )?(?P<value>\d{{1,3}})(?: years old)\b")),
    (
        "partner",
        ("married", "engaged", "dating"),
        re.compile(rf"\b{_WHO}{_ADVERB} (?:married|engaged|dating)(?: to)? {_VALUE}"),
    ),
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
_YEAR = re.compile(r"(?:19|20)\d\d")
_NAMING = re.compile(
    r"\b(?:number|no|nr|room|page|step|chapter|version|level|line|day|session|part|section|port|gate|flight|issue|v)\.?\s*#?$",
    re.I,
)
_CLAUSE_END = re.compile(r"[,.;:!?()]")
_REACHED = re.compile(
    r"\b(?:reached|(?:grown|increased|decreased|risen|fallen|changed|went up) to|now(?: at)?|total of)\s*$", re.I
)
_NUMBER_WORDS = {
    w: str(n) for n, w in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)
}
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.I)
_WEEKDAYS = frozenset(WEEKDAYS)
_SAME_PERSON = frozenset({"i", "we", "my", "our"})
#: Without one of these, a sentence tells no number, or denies nothing.
_TELLS_NUMBER = re.compile(rf"\d|{_NUMBER_WORD.pattern}", re.I)
_TELLS_DENIAL = re.compile(r"never|no longer|ever|stopped|quit|gave up")
#: Characters before a number that say what kind of number it is.
_BEFORE = 24


@dataclass(frozen=True, slots=True)
class Claim:
    """Something said of something: ``thing`` must be equal and ``about`` agree for two of them to be compared."""

    kind: str
    thing: str
    value: str
    around: str = ""

    @property
    def about(self) -> frozenset[str]:
        """The stems of the words ``around`` it: of a date without the days of the week."""
        stems = frozenset(terms(self.around))
        return stems - _WEEKDAYS if self.kind == DATE else stems


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
    prose = _I.sub("I ", (_CODE.sub(" ", text) if "```" in text else text)[:READ])
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
    if _TELLS_NUMBER.search(sentence):
        days = list(_MONTH_DAY.finditer(sentence)) if _names_month(sentence) else []
        bare = _MONTH_DAY.sub(lambda match: " " * len(match.group()), sentence) if days else sentence
        yield from _quantities(bare)
        yield from _dates(days, bare)
    if _TELLS_DENIAL.search(sentence):
        yield from _denials(sentence, who)


def _names_month(sentence: str) -> bool:
    low = sentence.lower()
    return any(month in low for month in MONTHS)


def _states(sentence: str, who: str) -> Iterator[Claim]:
    if sentence.rstrip().endswith("?"):
        return
    for name, hints, pattern in _STATES:
        for match in pattern.finditer(sentence) if any(hint in sentence for hint in hints) else ():
            yield Claim(STATE, f"{_person(match['who'], who)}'s {name}", _value(match["value"]))
    for pattern in (_OWNED, _OF):
        for match in pattern.finditer(sentence):
            value = _value(match["value"])
            if value and match["what"] not in STOP_WORDS:
                yield Claim(STATE, f"{_person(match['who'], who)}'s {match['what']}", value)


def _quantities(bare: str) -> Iterator[Claim]:
    """Yield the counts of a sentence whose dates are blanked out."""
    for match in _NUMBER.finditer(_spelt(bare)):
        start, end = match.span()
        number, before = match["number"].replace(",", ""), max(0, start - _BEFORE)
        if _YEAR.fullmatch(number) and not match["money"]:
            continue
        if _NAMING.search(bare, before, start):
            continue  # "room 12" counts nothing
        around, unit = _near(bare, start, end), match["money"] or match["unit"]
        counted = "" if unit else next(iter(terms(" ".join(_clause(bare[end:]).split()[:3]))), "")
        if counted:
            yield Claim(QUANTITY, f"count {counted}", number, around)
        elif _says_something(around) and (unit or _REACHED.search(bare, before, start)):
            yield Claim(QUANTITY, f"count {unit}" if unit else ANY, number, around)


def _dates(days: Iterable[re.Match[str]], bare: str) -> Iterator[Claim]:
    for match in days:
        hour = f" {match['hour']}:{match['minute'] or '00'} {match['half'].lower()}" if match["hour"] else ""
        around = _near(bare, match.start(), match.end())
        yield Claim(DATE, "date", f"{match['month'].lower()} {int(match['day'])}{hour}", around)


def _denials(sentence: str, who: str) -> Iterator[Claim]:
    for match in _DENIAL.finditer(sentence):
        if _says_something(match["value"]):
            denied = " ".join(match["value"].split()[:8])
            yield Claim(DENIAL, _person(match["who"], who), denied, match["value"])


def _says_something(text: str) -> bool:
    return any(word not in STOP_WORDS for word in words(text))


def _spelt(text: str) -> str:
    """Write small numbers in digits, in as many characters as before."""
    return _NUMBER_WORD.sub(lambda match: _NUMBER_WORDS[match.group().lower()].ljust(len(match.group())), text)


def _clause(text: str) -> str:
    """Return a text up to the first mark that ends a clause."""
    end = _CLAUSE_END.search(text)
    return text[: end.start()] if end else text


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
