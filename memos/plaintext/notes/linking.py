"""Which of the earlier memories a new one is linked to, and how, decided without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memos.clock import DAY_US, to_us
from memos.cube import LinkType
from memos.plaintext.notes.claims import DATE, QUANTITY, Clash, clash
from memos.plaintext.notes.member import Draft, Member, Near

#: Links that a new note makes at most.
MOST = 6
#: Cosines from which two texts are related, and from which one can refine the other.
RELATED, CLOSE = 0.5, 0.7
#: From which texts that share a name, a day or a cause are.
LOOSELY = 0.3
#: What names shared by two memories must tell.
TELLING = 0.35
#: Share of the earlier words that a refinement repeats, and new words it adds.
REPEATED, ADDED = 0.7, 3
SESSION = 0.3
#: Memories that one count or date can take back.
FEW = 3
MEASURED = frozenset({QUANTITY, DATE})
_CAUSE = re.compile(
    r"\b(?:because|that['’]s why|which is why|therefore|as a result|led to|thanks to|due to|so that|in order to)\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """A link to be made, and what clashes where it is a contradiction."""

    near: Near
    kind: LinkType
    score: float
    clash: Clash | None = None


def decide(draft: Draft) -> list[Decision]:
    """Return the links of a new note, strongest first; a contradiction is never left out.

    A count or a date that differs from those of many memories is one of many, not an update of them all.
    """
    found = [decision for near in draft.near for decision in _decision(draft.member, near)]
    differing = [one for one in found if _measured(one)]
    if len(differing) > FEW:
        found = [one for one in found if not _measured(one)]
        found += [other for one in differing for other in _decision(draft.member, one.near, clashing=False)]
    found.sort(key=lambda one: (one.kind is not LinkType.CONTRADICTS, -one.score))
    return found[: max(MOST, sum(one.kind is LinkType.CONTRADICTS for one in found))]


def _measured(decision: Decision) -> bool:
    return decision.clash is not None and decision.clash.kind in MEASURED


def _decision(new: Member, near: Near, *, clashing: bool = True) -> Iterator[Decision]:
    """Yield what two memories have to do with each other: one thing at most."""
    old, similarity = near.member, near.similarity
    related = clashing and (similarity >= LOOSELY or bool(near.names))
    found = clash(new.claims, old.claims) if related else None
    if found is not None:
        yield Decision(near, LinkType.CONTRADICTS, max(similarity, RELATED), found)
    elif similarity >= CLOSE and _refines(new, old):
        yield Decision(near, LinkType.REFINES, similarity)
    elif similarity >= LOOSELY and _same_run(new, old) and _CAUSE.search(new.spoken) and (near.before or near.names):
        yield Decision(near, LinkType.CAUSAL, max(similarity, RELATED))
    elif near.rarity >= TELLING and similarity >= LOOSELY:
        yield Decision(near, LinkType.ENTITY, min(1.0, (similarity + near.rarity) / 2))
    elif similarity >= RELATED:
        yield Decision(near, LinkType.SEMANTIC, similarity)
    elif near.names and similarity >= LOOSELY and _same_day(new, old):
        yield Decision(near, LinkType.TEMPORAL, similarity)
    elif near.before:
        yield Decision(near, LinkType.SAME_SESSION, SESSION)


def _refines(new: Member, old: Member) -> bool:
    common = len(new.stems & old.stems)
    return bool(old.stems) and common >= REPEATED * len(old.stems) and len(new.stems) - common >= ADDED


def _same_run(new: Member, old: Member) -> bool:
    return new.cube.scope.run_id is not None and new.cube.scope.run_id == old.cube.scope.run_id


def _same_day(new: Member, old: Member) -> bool:
    one, other = new.cube.time.event_time, old.cube.time.event_time
    return one is not None and other is not None and to_us(one) // DAY_US == to_us(other) // DAY_US


def strongest(decisions: Sequence[Decision], kinds: frozenset[LinkType], least: float, most: int) -> list[Decision]:
    """Return up to ``most`` of the decisions of some kinds with at least a score."""
    return [one for one in decisions if one.kind in kinds and one.score >= least][:most]
