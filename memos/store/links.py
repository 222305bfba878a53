"""Links between memories, within one namespace.

One row stands for both directions: its source is the memory whose note made it. A pair has at most one link.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import Row, bindparam, func, or_

from memos.clock import from_us
from memos.cube import Link, LinkType
from memos.store.schema import links
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: Links that one memory keeps at most; beyond, the weakest leaves.
MOST = 16
#: Pushed out by its like only: which of two memories holds must stay known.
KEPT = LinkType.CONTRADICTS.value


class LinkRepository(ScopedRepository):
    """Reads and writes the links of one namespace."""

    def of(self, cube_id: str) -> list[Link]:
        """Return the links of one memory, seen from it, strongest first."""
        return [link.seen_from(cube_id) for link in self.touching([cube_id])]

    def touching(self, cube_ids: Sequence[str]) -> list[Link]:
        """Return every link that touches one of ``cube_ids``, once, as it was made, strongest first."""
        found: dict[tuple[str, str, str], Link] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            statement = self._select(links).where(or_(links.c.source_id.in_(chunk), links.c.target_id.in_(chunk)))
            for row in self.connection.execute(statement):
                found[row.source_id, row.target_id, row.type] = _link(row)
        return sorted(found.values(), key=lambda link: (-link.score, link.target_id))

    def every(self) -> list[Link]:
        """Return all links of the namespace."""
        return [_link(row) for row in self.connection.execute(self._select(links))]

    def add(self, made: Sequence[dict[str, Any]]) -> int:
        """Add links, as rows of their table, one after the other; return how many stayed.

        A pair that has one keeps it unless the new one contradicts. A memory that has :data:`MOST` keeps the strongest.
        """
        if not made:
            return 0
        held = _Held(self._edges(self._in_question(made)))
        for row in made:
            held.offer(row)
        self._drop(held.dropped)
        self._insert(links, list(held.added.values()))
        return len(held.added)

    def _in_question(self, made: Sequence[dict[str, Any]]) -> list[str]:
        """Return the memories whose links decide what stays: sources, whose pairs may be linked, and crowded ones."""
        offered = Counter(row[name] for row in made for name in ("source_id", "target_id"))
        targets = sorted({row["target_id"] for row in made} - {row["source_id"] for row in made})
        counted: Counter[str] = Counter()
        for start in range(0, len(targets), IN_CHUNK):
            for end in (links.c.source_id, links.c.target_id):
                number = self._select(links, end, func.count()).where(end.in_(targets[start : start + IN_CHUNK]))
                counted.update({row[0]: row[1] for row in self.connection.execute(number.group_by(end))})
        crowded = [target for target in targets if counted[target] + offered[target] > MOST]
        return sorted({row["source_id"] for row in made}.union(crowded))

    def _edges(self, cube_ids: Sequence[str]) -> set[_Edge]:
        """Return what has to be known of every link that touches one of ``cube_ids``."""
        columns = (links.c.source_id, links.c.target_id, links.c.type, links.c.score)
        found: set[_Edge] = set()
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            for end in (links.c.source_id, links.c.target_id):
                rows = self.connection.execute(self._select(links, *columns).where(end.in_(chunk)))
                found.update(starmap(_Edge, rows))
        return found

    def _drop(self, dropped: Sequence[_Edge]) -> None:
        named = {"source_id": links.c.source_id, "target_id": links.c.target_id, "type": links.c.type}
        one = self._delete(links).where(*(column == bindparam(f"its_{name}") for name, column in named.items()))
        rows = [{f"its_{name}": getattr(edge, name) for name in named} for edge in dropped]
        if rows:
            self.connection.execute(one, rows)


class _Edge(NamedTuple):
    """What decides which links a memory keeps."""

    source_id: str
    target_id: str
    type: str
    score: float


class _Held:
    """The links of some memories while others are offered: what is added and what is dropped of what was there."""

    def __init__(self, present: Iterable[_Edge]) -> None:
        self.added: dict[frozenset[str], dict[str, Any]] = {}
        self.dropped: list[_Edge] = []
        self._pairs: dict[frozenset[str], _Edge] = {}
        self._of: dict[str, set[frozenset[str]]] = defaultdict(set)
        for link in present:
            self._take(link)

    def offer(self, row: dict[str, Any]) -> None:
        link = _Edge(row["source_id"], row["target_id"], row["type"], row["score"])
        pair = _pair(link)
        standing = self._pairs.get(pair)
        if standing is not None and (link.type != KEPT or standing.type == KEPT):
            return
        if standing is not None:
            self._leave(pair)
        full = [self._of[end] for end in (link.source_id, link.target_id) if len(self._of[end]) >= MOST]
        weakest = {min(pairs, key=lambda one: _worth(self._pairs[one])) for pairs in full}
        if any(_worth(self._pairs[one]) >= _worth(link) for one in weakest):
            return
        for one in weakest:
            self._leave(one)
        self._take(link)
        self.added[pair] = row

    def _take(self, link: _Edge) -> None:
        pair = _pair(link)
        self._pairs[pair] = link
        for end in pair:
            self._of[end].add(pair)

    def _leave(self, pair: frozenset[str]) -> None:
        link = self._pairs.pop(pair)
        for end in pair:
            self._of[end].discard(pair)
        if self.added.pop(pair, None) is None:
            self.dropped.append(link)


def link_row(
    source: tuple[str, int], target: tuple[str, int], kind: LinkType, score: float, author: str, at: int
) -> dict[str, Any]:
    """Return the row of a link between two ``(cube id, version)``."""
    return {
        "source_id": source[0],
        "source_version": source[1],
        "target_id": target[0],
        "target_version": target[1],
        "type": kind.value,
        "score": score,
        "author": author,
        "created_at": at,
    }


def inherited(found: Iterable[Link], heirs_of: Collection[str], heir: tuple[str, int], at: int) -> list[dict[str, Any]]:
    """Return rows of the links that some memories have to others, for a ``(cube id, version)`` that stands for them.

    Strongest first, if ``found`` is: of several to the same memory the first stays.
    """
    rows = []
    for link in found:
        source, target = (link.source_id, link.source_version), (link.target_id, link.target_version)
        if (source[0] in heirs_of) != (target[0] in heirs_of):
            ends = (heir, target) if source[0] in heirs_of else (source, heir)
            rows.append(link_row(*ends, LinkType(link.type), link.score, link.author, at))
    return rows


def _pair(link: _Edge) -> frozenset[str]:
    return frozenset((link.source_id, link.target_id))


def _worth(link: _Edge) -> tuple[bool, float]:
    return link.type == KEPT, link.score


def _link(row: Row[Any]) -> Link:
    names = ("source_id", "source_version", "target_id", "target_version", "type", "score", "author")
    return Link(**{name: getattr(row, name) for name in names}, created_at=from_us(row.created_at))
