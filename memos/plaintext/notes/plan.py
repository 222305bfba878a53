"""What a batch of notes comes to: for each new memory its note and links, for earlier ones their next versions.

Notes of one batch build on each other: what the first changes in a neighbour, the second finds changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from memos.cube import ECHO, Descriptor, LinkType, MemCube, State
from memos.plaintext.notes.attributes import Attributes
from memos.plaintext.notes.duplicates import same_fact
from memos.plaintext.notes.echo import echoed
from memos.plaintext.notes.evolution import Evolution, evolve, in_time, rewritten
from memos.plaintext.notes.linking import Decision
from memos.plaintext.notes.member import Draft, Member, Near
from memos.plaintext.notes.scribe import Written
from memos.store.mixture import note_text


@dataclass(frozen=True, slots=True)
class Link:
    """A link to be made between versions of two memories."""

    source: tuple[str, int]
    target: tuple[str, int]
    kind: LinkType
    score: float


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one new memory, and what that changes elsewhere.

    ``same_as`` is the version of the memory that it repeats. ``evolutions`` follow each other: each is of the version
    that the one before it left.
    """

    cube: MemCube
    state: State
    attributes: Attributes
    scribe: str
    remark: str | None = None
    same_as: tuple[str, int] | None = None
    links: tuple[Link, ...] = ()
    evolutions: tuple[Evolution, ...] = ()
    seen: tuple[str, ...] = ()

    @property
    def note_text(self) -> str:
        """The text of the memory with its note."""
        return note_text(self.cube.text or "", self.attributes.descriptor)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of the memories; ``texts`` are those of the memories that evolve, by cube id."""

    steps: tuple[Step, ...]
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def note_texts(self) -> list[str]:
        """Every text with a note that is written, once."""
        found = [step.note_text for step in self.steps if step.same_as is None]
        evolutions = (evolution for step in self.steps for evolution in step.evolutions)
        found += [self.evolved_text(evolution) for evolution in evolutions if evolution.rewritten]
        return list(dict.fromkeys(found))

    def evolved_text(self, evolution: Evolution) -> str:
        """Return the text of an earlier memory with the note it comes to have."""
        return note_text(self.texts[evolution.cube_id], evolution.descriptor)


def plan_of(drafts: Sequence[Draft], written: Sequence[Written]) -> Plan:
    """Decide on every draft in turn."""
    present: dict[str, MemCube] = {}
    texts: dict[str, str] = {}
    steps = []
    for draft, note in zip(drafts, written, strict=True):
        step = _step(_as_now(draft, present), note)
        for evolution in step.evolutions:
            texts[evolution.cube_id] = _cube(draft, evolution.cube_id).text or ""
        _remember(step, draft, present)
        steps.append(step)
    return Plan(tuple(steps), texts)


def _step(draft: Draft, note: Written) -> Step:
    cube = draft.member.cube
    repeated = echoed(draft)
    if repeated:
        remark, seen = f"{ECHO}{', '.join(repeated)}", tuple({*note.seen, *repeated})
        return Step(cube, State.QUARANTINED, note.attributes, note.scribe, remark, seen=seen)
    twin = next((near for near in draft.near if same_fact(draft.member, near.member, near.similarity)), None)
    if twin is not None:
        kept = twin.member.key
        remark = f"says the same as {kept[0]}"
        return Step(cube, State.ARCHIVED, note.attributes, note.scribe, remark, same_as=kept, seen=note.seen)
    decisions = _current(note.decisions, draft.near)
    noted = replace(draft.member, cube=_noted(cube, note.attributes.descriptor))
    if note.rewrites is None:
        evolutions = evolve(noted, decisions)
    else:
        evolutions = rewritten(noted, decisions, note.rewrites, note.scribe)
    links = tuple(_link(noted, one) for one in decisions)
    return Step(
        cube,
        State.ACTIVATED,
        note.attributes,
        note.scribe,
        note.remark,
        links=links,
        evolutions=tuple(evolutions),
        seen=note.seen,
    )


def _link(new: Member, decision: Decision) -> Link:
    """Return a link from the new memory, but of a contradiction from what holds to what no longer does."""
    ends = (new, decision.near.member)
    source, target = in_time(*ends) if decision.kind is LinkType.CONTRADICTS else ends
    return Link(source.key, target.key, decision.kind, decision.score)


def _noted(cube: MemCube, note: Descriptor) -> MemCube:
    """Return a memory with its note: written for the first time into its version, later as another one."""
    again = cube.provenance.scribe is not None and cube.descriptor != note
    return cube.model_copy(update={"descriptor": note, "version": cube.version + again})


def _current(decisions: Sequence[Decision], near: Sequence[Near]) -> list[Decision]:
    """Return the decisions about neighbours as they are by now; those that were put away meanwhile are left out."""
    now = {one.member.cube.id: one for one in near}
    return [replace(one, near=now[one.near.member.cube.id]) for one in decisions if one.near.member.cube.id in now]


def _as_now(draft: Draft, present: dict[str, MemCube]) -> Draft:
    """Return a draft whose neighbours are as the steps before it left them."""
    near = []
    for one in draft.near:
        cube = present.get(one.member.cube.id, one.member.cube)
        if cube.state not in {State.ARCHIVED, State.QUARANTINED}:
            near.append(replace(one, member=replace(one.member, cube=cube)))
    return Draft(draft.member, near)


def _remember(step: Step, draft: Draft, present: dict[str, MemCube]) -> None:
    noted = _noted(step.cube, step.attributes.descriptor)
    present[step.cube.id] = noted.model_copy(update={"state": step.state})
    for evolution in step.evolutions:
        before = present.get(evolution.cube_id) or _cube(draft, evolution.cube_id)
        ends = before.time.valid_to if evolution.valid_to is None else evolution.valid_to
        time = before.time.model_copy(update={"valid_to": ends})
        after = {"version": evolution.version + 1, "descriptor": evolution.descriptor, "time": time}
        present[evolution.cube_id] = before.model_copy(update=after)


def _cube(draft: Draft, cube_id: str) -> MemCube:
    """Return the draft itself or one of its neighbours."""
    return next(one.cube for one in (draft.member, *(near.member for near in draft.near)) if one.cube.id == cube_id)
