"""Names in a text: people, places, works, handles, found by how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memos.plaintext.analysis import STOP_WORDS
from memos.plaintext.dates import MONTHS, WEEKDAYS
from memos.plaintext.notes.attributes import MAX_ENTITIES, MAX_TERM

_TOKEN = r"[A-ZÀ-ÖØ-ÞĀ-Ž][\w’'&.-]*[\w]|[A-Z]"
#: Capitalised words in a row, also across "of the" and the like: "Bank of England", "Ingrid Vale".
_NAME = re.compile(rf"(?:{_TOKEN})(?: (?:(?:of|the|de|la|von|van|der|du|and) ){{0,2}}(?:{_TOKEN}))*")
_HANDLE = re.compile(r"(?<!\w)[@#][A-Za-z][\w-]{1,38}")
_QUOTED = re.compile(r"[\"“]([A-Z][^\"”\n]{2,58})[\"”]")
_START = re.compile(r"(?:^|[.!?:;\n\"“”()\[\]*>-]\s*)$")
_POSSESSIVE = re.compile(r"['’]s$")
_CODE = re.compile(r"```.*?(?:```|$)", re.S)
_NO_NAMES = frozenset({"ok", "okay", "hi", "hey", "hello", "thanks", "yes", "no", "wow", "oh", "yeah", "ai"})


def entities(text: str, author: str | None = None, language: str | None = None) -> tuple[str, ...]:
    """Return distinct names in order of appearance; dates and the ``author`` of the text are none.

    A single capitalised word that begins a sentence counts only if it also stands inside one, or owns something. In
    German, which writes every noun so, single words do not count at all.
    """
    prose = _CODE.sub(" ", text)
    found: dict[str, str] = {}
    for name in _candidates(prose):
        key = name.casefold()
        if language == "de" and " " not in name and not _marked(name):
            continue
        if key not in found and len(name) <= MAX_TERM and key != (author or "").casefold():
            found[key] = name
    return tuple(found.values())[:MAX_ENTITIES]


def _candidates(text: str) -> Iterator[str]:
    unsure: list[str] = []
    sure: set[str] = set()
    for match in _NAME.finditer(text):
        begins = bool(_START.search(text[max(0, match.start() - 4) : match.start()]))
        name = _bare(match.group(), begins=begins)
        if not name or _plain(name):
            continue
        if begins and " " not in name and not _POSSESSIVE.search(match.group()) and not _marked(name):
            unsure.append(name)
            continue
        sure.add(name)
        yield name
    yield from (name for name in unsure if name in sure)
    yield from (match.group() for match in _HANDLE.finditer(text))
    yield from (match.group(1) for match in _QUOTED.finditer(text))


def _bare(name: str, *, begins: bool) -> str:
    """Drop a possessive, and the words around a name that are none: "The", "In", a month."""
    parts = _POSSESSIVE.sub("", name).rstrip(".").split(" ")
    while parts and (parts[0].lower() in STOP_WORDS or _is_date(parts[0])):
        parts = parts[1:]
        if begins and len(parts) == 1 and parts[0].islower():
            parts = []
    while parts and (parts[-1].lower() in STOP_WORDS or _is_date(parts[-1])):
        parts = parts[:-1]
    return " ".join(parts)


def _plain(name: str) -> bool:
    return len(name) < 2 or name.lower() in _NO_NAMES or name.lower() in STOP_WORDS


def _is_date(word: str) -> bool:
    return word.lower().rstrip(".,s") in MONTHS or word.lower().rstrip(".,s") in WEEKDAYS


def _marked(name: str) -> bool:
    """Whether a word is written as no common word is: "NASA", "iPhone", "GPT-4"."""
    return any(character.isupper() or character.isdigit() for character in name[1:])
