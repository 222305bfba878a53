"""How earlier notes change when a new one comes: tags, context, and until when they held. Never their text.

No text of the new memory is written into another's note: tags are words, and what is superseded is so by a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from memos.cube import FUSION, Descriptor, LinkType, MemCube
from memos.plaintext.notes.attributes import MAX_CONTEXT, MAX_TAGS
from memos.plaintext.notes.claims import STATE
from memos.plaintext.notes.linking import Decision, strongest
from memos.plaintext.notes.member import Member
from memos.plaintext.notes.scribe import Rewrite

#: Neighbours that a model changes at most for one new note.
MOST = 3
#: Neighbours that the tags of a new note reach without a model, and from which score of the link.
REACHED, STRONG = 1, 0.6
#: Tags that one new note brings to a neighbour.
BROUGHT = 2
#: Content words up to which a text is one statement: of a longer one, a contradiction takes back a part only.
ONE_STATEMENT = 20
_EVOLVING = frozenset({LinkType.REFINES, LinkType.SEMANTIC, LinkType.ENTITY})


@dataclass(frozen=True, slots=True)
class Evolution:
    """A new version of a note. ``changes`` are ``{attribute: [before, after]}``, ``valid_to`` among them.

    ``cause`` is the memory without which it would not be. Where a model has ``rewritten`` the note, its vector follows.
    A tag that a neighbour brings would pull it towards that neighbour: what is asked of one would find the other.
    """

    cube_id: str
    version: int
    descriptor: Descriptor
    changes: dict[str, Any]
    reason: str
    cause: str
    valid_to: datetime | None = None
    rewritten: bool = False


def evolve(new: Member, decisions: Sequence[Decision]) -> list[Evolution]:
    """Return what a new note, which stands in ``new`` already, changes in those it is linked to.

    Where it tells of an earlier time than what it contradicts, it is itself what no longer holds.
    """
    found = superseding(new, decisions)
    found += [_strengthened(new.cube, one) for one in strongest(decisions, _EVOLVING, STRONG, REACHED)]
    return [one for one in found if one.changes]


def superseding(new: Member, decisions: Sequence[Decision]) -> list[Evolution]:
    """Return what contradictions change: each fact once, by the latest that takes it back."""
    found: dict[str, Evolution] = {}
    for decision in decisions:
        if decision.kind is LinkType.CONTRADICTS:
            later, earlier = in_time(new, decision.near.member)
            found[earlier.cube.id] = _superseded(earlier, later.cube, decision)
    return list(found.values())


def in_time(one: Member, other: Member) -> tuple[Member, Member]:
    """Return two memories, the one of the later event first."""
    return (one, other) if (_happened(one.cube), one.cube.id) > (_happened(other.cube), other.cube.id) else (other, one)


def _superseded(earlier: Member, later: MemCube, decision: Decision) -> Evolution:
    """Close a fact that no longer holds; of a long text, say what of it was taken back."""
    old, since, clash = earlier.cube, _happened(later), decision.clash
    assert clash is not None  # it is a contradiction
    reason = f"contradicted by {later.id}: {clash.told}"
    single = len(earlier.stems) <= ONE_STATEMENT and old.provenance.source != FUSION
    closes = clash.kind == STATE and single and old.time.valid_to is None
    told = f"Superseded on {since:%Y-%m-%d}."
    after = old.descriptor.model_copy(update={"context": _joined(old.descriptor.context, told)})
    changes = difference(old.descriptor, after)
    if closes:
        changes["valid_to"] = [None, since.isoformat()]
    return Evolution(old.id, old.version, after, changes, reason, later.id, since if closes else None)


def _strengthened(new: MemCube, decision: Decision) -> Evolution:
    """Bring a neighbour the tags that the new note found."""
    old = decision.near.member.cube
    before = old.descriptor
    topics = [tag for tag in new.descriptor.tags if tag not in before.tags][:BROUGHT]
    after = before.model_copy(update={"tags": (*before.tags, *topics)[:MAX_TAGS]})
    reason = f"{decision.kind.value} link from {new.id}"
    return Evolution(old.id, old.version, after, difference(before, after), reason, new.id)


def difference(before: Descriptor, after: Descriptor) -> dict[str, Any]:
    """Return the attributes that differ, as ``{name: [before, after]}`` in plain data."""
    one, other = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {name: [one[name], other[name]] for name in one if one[name] != other[name]}


def _joined(context: str | None, more: str) -> str:
    if context and more in context:
        return context
    return f"{context} {more}"[:MAX_CONTEXT] if context else more[:MAX_CONTEXT]


def _happened(cube: MemCube) -> datetime:
    return cube.time.event_time or cube.time.created_at


def rewritten(new: Member, decisions: Sequence[Decision], rewrites: Sequence[Rewrite], author: str) -> list[Evolution]:
    """Return what a model changes in the neighbours; a contradiction closes a fact as it does without one."""
    found = {one.cube_id: one for one in superseding(new, decisions)}
    near = {decision.near.member.cube.id: decision.near.member.cube for decision in decisions}
    for rewrite in rewrites[:MOST]:
        old = near.get(rewrite.cube_id)
        if old is not None:  # it may only change what it is linked to
            made = _rewritten(old, rewrite, found.get(old.id), f"{rewrite.reason} ({author}, from {new.cube.id})")
            found[old.id] = replace(made, cause=new.cube.id)
    return [one for one in found.values() if one.changes]


def _rewritten(old: MemCube, rewrite: Rewrite, started: Evolution | None, reason: str) -> Evolution:
    """Return a rewrite of a memory, on top of what a contradiction changes in it."""
    begun = started or Evolution(old.id, old.version, old.descriptor, {}, reason, "")
    after = begun.descriptor.model_copy(update=dict(rewrite.attributes))
    closing = {name: change for name, change in begun.changes.items() if name == "valid_to"}
    changes = {**difference(old.descriptor, after), **closing}
    return replace(begun, descriptor=after, changes=changes, rewritten=True)
