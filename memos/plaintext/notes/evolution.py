"""How earlier notes change when a new one comes: tags, context, and until when they held. Never their text.

No text of the new memory is written into another's note: tags are words, and what is superseded is so by a link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memos.cube import Descriptor, LinkType, MemCube
from memos.plaintext.notes.attributes import MAX_CONTEXT, MAX_TAGS
from memos.plaintext.notes.claims import is_state
from memos.plaintext.notes.linking import Decision, strongest
from memos.plaintext.notes.scribe import Rewrite

#: Neighbours that one new note changes at most, and the score of a link from which its tags reach the neighbour.
MOST, STRONG = 3, 0.6
#: Tags that one new note brings to a neighbour.
BROUGHT = 2
#: Content words up to which a text is one statement: of a longer one, a contradiction takes back a part only.
ONE_STATEMENT = 20
_EVOLVING = frozenset({LinkType.REFINES, LinkType.SEMANTIC, LinkType.ENTITY})


@dataclass(frozen=True, slots=True)
class Evolution:
    """A new version of an earlier note. ``changes`` are ``{attribute: [before, after]}``, ``valid_to`` among them."""

    cube_id: str
    version: int
    descriptor: Descriptor
    changes: dict[str, Any]
    reason: str
    valid_to: datetime | None = None


def evolve(new: MemCube, note: Descriptor, decisions: Sequence[Decision]) -> list[Evolution]:
    """Return what a new note changes in those it is linked to."""
    contradicted = [one for one in decisions if one.kind is LinkType.CONTRADICTS and _newer(new, one.near.member.cube)]
    found = [_superseded(new, one) for one in contradicted]
    found += [_strengthened(new, note, one) for one in strongest(decisions, _EVOLVING, STRONG, MOST - len(found))]
    return [one for one in found if one.changes]


def _superseded(new: MemCube, decision: Decision) -> Evolution:
    """Close a fact that no longer holds; of a long text, say what of it was taken back."""
    old, since = decision.near.member.cube, _happened(new)
    reason = f"contradicted by {new.id}: {decision.reason}"
    ends = since if len(decision.near.member.stems) <= ONE_STATEMENT and is_state(decision.reason or "") else None
    told = f"Superseded on {since:%Y-%m-%d}."
    after = old.descriptor.model_copy(update={"context": _joined(old.descriptor.context, told)})
    changes = difference(old.descriptor, after)
    if ends is not None and old.time.valid_to is None:
        changes["valid_to"] = [None, ends.isoformat()]
        return Evolution(old.id, old.version, after, changes, reason, ends)
    return Evolution(old.id, old.version, after, changes, reason)


def _strengthened(new: MemCube, note: Descriptor, decision: Decision) -> Evolution:
    """Bring a neighbour the tags that the new note found."""
    old = decision.near.member.cube
    before = old.descriptor
    topics = [tag for tag in note.tags if tag not in before.tags][:BROUGHT]
    after = before.model_copy(update={"tags": (*before.tags, *topics)[:MAX_TAGS]})
    return Evolution(old.id, old.version, after, difference(before, after), f"{decision.kind.value} link from {new.id}")


def difference(before: Descriptor, after: Descriptor) -> dict[str, Any]:
    """Return the attributes that differ, as ``{name: [before, after]}`` in plain data."""
    one, other = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {name: [one[name], other[name]] for name in one if one[name] != other[name]}


def _joined(context: str | None, more: str) -> str:
    if context and more in context:
        return context
    return f"{context} {more}"[:MAX_CONTEXT] if context else more[:MAX_CONTEXT]


def _newer(new: MemCube, old: MemCube) -> bool:
    return (_happened(new), new.id) > (_happened(old), old.id)


def _happened(cube: MemCube) -> datetime:
    return cube.time.event_time or cube.time.created_at


def rewritten(
    new: MemCube, note: Descriptor, decisions: Sequence[Decision], rewrites: Sequence[Rewrite], author: str
) -> list[Evolution]:
    """Return what a model changes in the neighbours; a contradiction closes a fact as it does without one."""
    found = {one.cube_id: one for one in evolve(new, note, [d for d in decisions if d.kind is LinkType.CONTRADICTS])}
    near = {decision.near.member.cube.id: decision.near.member.cube for decision in decisions}
    for rewrite in rewrites[:MOST]:
        old = near.get(rewrite.cube_id)
        if old is None:
            continue  # it may only change what it is linked to
        started = found.get(old.id)
        before = started.descriptor if started else old.descriptor
        after = before.model_copy(update=dict(rewrite.attributes))
        changes = difference(old.descriptor, after)
        if started is not None and "valid_to" in started.changes:
            changes["valid_to"] = started.changes["valid_to"]
        if changes:
            reason = started.reason if started else f"{rewrite.reason} ({author}, from {new.id})"
            found[old.id] = Evolution(
                old.id, old.version, after, changes, reason, started.valid_to if started else None
            )
    return list(found.values())
