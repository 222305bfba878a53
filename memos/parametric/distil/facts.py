"""Facts: what is there to be known in a note, with ways to ask for it and the answer.

Structured notes say it themselves, in their metadata:

    {"subject": "Ann", "attribute": "home town", "value": "Lisbon"}
    {"question": "Where is the spare key?", "answer": "under the blue pot", "paraphrases": ["..."]}
    {"facts": [any number of either]}

Of free text simple English sentences are understood (:mod:`memos.parametric.distil.sentences`); of others, the last
words are to be known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memos.activation.bundle import note_of
from memos.config import OFFLINE
from memos.cube import Descriptor, MemCube
from memos.parametric.distil import templates
from memos.parametric.distil.sentences import Asked, asked_in
from memos.parametric.distil.templates import HELD_NOBODYS, HELD_STRANGERS, NOBODYS, STRANGERS, Ways

#: Longest answer, in characters: what is longer is no fact.
MAX_ANSWER = 160
#: Strangers are asked about in every third way.
STRANGE_WAYS = 3

#: Turns the text of a note into questions and answers, such as a language model does.
Writer = Callable[[str], Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to be known.

    ``line`` is the note as a prompt shows it. ``questions`` are trained, ``held`` are asked at the gate only.
    ``strangers`` and ``held_strangers`` ask the same about people who do not exist, or something else where the
    questions name nobody, for training and for the gate: an adapter that answers these has learnt an answer and not a
    fact.
    """

    cube_id: str
    line: str
    answer: str
    questions: tuple[str, ...]
    held: tuple[str, ...]
    strangers: tuple[str, ...] = ()
    held_strangers: tuple[str, ...] = ()


def facts_of(notes: Sequence[MemCube], writer: Writer | None = None) -> list[Fact]:
    """Return what is to be known of some notes, in the order of their bundle.

    Where two notes answer the same question, the later one does. Empty if there is nothing.
    """
    ordered = sorted(notes, key=lambda cube: (note_of(cube).happened_at, cube.id))
    found: dict[str, Fact] = {}
    for cube in ordered:
        for fact in _facts_of(cube, writer):
            question = _folded(fact.questions[0])
            found.pop(question, None)
            found[question] = fact
    return list(found.values())


def _facts_of(cube: MemCube, writer: Writer | None) -> Iterator[Fact]:
    if cube.provenance.scribe == OFFLINE:  # rules repeat the text: there is nothing in their note to be known besides
        cube = cube.model_copy(update={"descriptor": Descriptor()})
    structured = list(_structured(cube.metadata))
    if writer is not None and cube.text:
        structured += [_quoted(question, answer) for question, answer in writer(cube.text) if answer in cube.text]
    asked = structured or [
        *asked_in(cube.text or "", cube.descriptor.keywords),
        *asked_in(cube.descriptor.context or ""),
    ]
    line, number = note_of(cube).line, 0
    for one in [*asked, *_titled(cube)]:
        answer = one.answer.strip()
        if answer and len(answer) <= MAX_ANSWER:
            yield _fact(cube.id, line, one, answer, number)
            number += 1


def _fact(cube_id: str, line: str, one: Asked, answer: str, number: int) -> Fact:
    place = number + sum(cube_id.encode())
    ways = one.ways(one.subject)
    turns = range(0, len(ways.trained), STRANGE_WAYS)
    if not one.subject:
        strangers = tuple(NOBODYS[(place + way) % len(NOBODYS)] for way in turns)
        return Fact(cube_id, line, answer, ways.trained, ways.held, strangers, HELD_NOBODYS)
    strangers = tuple(one.ways(STRANGERS[(place + way) % len(STRANGERS)]).trained[way] for way in turns)
    other = HELD_STRANGERS[place % len(HELD_STRANGERS)]
    return Fact(cube_id, line, answer, ways.trained, ways.held, strangers, one.ways(other).held)


# ------------------------------------------------------------ what metadata say


def _structured(metadata: Mapping[str, Any]) -> Iterator[Asked]:
    listed = metadata.get("facts")
    for one in [metadata, *(listed if isinstance(listed, list) else [])]:
        if isinstance(one, Mapping) and (asked := _entry(one)) is not None:
            yield asked


def _entry(entry: Mapping[str, Any]) -> Asked | None:
    """Return what one map says, if it is of either form."""
    subject, what, value = (_plain(entry.get(name)) for name in ("subject", "attribute", "value"))
    if subject and what and value:
        return _attribute(subject, what, value)
    question, answer = _plain(entry.get("question")), _plain(entry.get("answer"))
    if not (question and answer):
        return None
    given = entry.get("paraphrases")
    ways = templates.listed(question, tuple(filter(None, map(_plain, given if isinstance(given, list) else []))))
    return Asked("", answer, lambda _: ways)


def _attribute(subject: str, what: str, value: str) -> Asked:
    return Asked(subject, value, lambda somebody: templates.attribute(somebody, what))


def _quoted(question: str, answer: str) -> Asked:
    return Asked("", answer, lambda _: templates.bare(question))


def _titled(cube: MemCube) -> Iterator[Asked]:
    """Ask for a note by its title, once it has one: what it says, if that is short, and when it happened."""
    title = cube.descriptor.title
    if not title:
        return
    if cube.text and len(cube.text) <= MAX_ANSWER:
        about = templates.asked(f"what do you know about {title}", f"what you know about {title}")
        yield Asked("", cube.text, lambda _: about)
    if cube.time.event_time is not None:
        happened = templates.bare(f"When did this happen: {title}?")
        yield Asked("", f"{cube.time.event_time:%d %B %Y}".lstrip("0"), lambda _: happened)


def _plain(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _folded(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.casefold()))


__all__ = ["Fact", "Ways", "Writer", "facts_of"]
