"""Recall along links: what the best memories are linked to comes along, and what supersedes comes first.

Activation spreads from the best-ranked memories (Collins & Loftus 1975), one hop: each linked memory has a share of the
best score linked to it, times the strength of the link (what that brings: benchmarks/recall_quality.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memos.cube import Link, LinkType
from memos.plaintext.ranking import Query, Ranking, Rows, ordered, scored
from memos.store.links import LinkRepository
from memos.store.view import NEVER, NamespaceView

#: What a linked memory inherits of the score of the one that links to it, times the strength of the link.
#: Flat from .02 to .1.
LINK = 0.05
#: Best memories whose links are followed.
SEEDS = 32
#: By how much what supersedes comes before what it supersedes. Where that is one point of a longer text, which holds
#: otherwise, how near to its score it must be by itself: what is no answer does not become one by contradicting one.
AHEAD, WORTHY = 1e-4, 0.5
#: Links that say no more than the chain of the session, which every score has in it.
IDLE = frozenset({LinkType.SAME_SESSION.value})


@dataclass(frozen=True, slots=True)
class Followed:
    """A ranking after its links were followed, the links, and over which each memory was reached, by cube id."""

    ranking: Ranking
    links: Sequence[Link] = ()
    via: Mapping[str, Link] = field(default_factory=dict)


def follow(
    ranking: Ranking, links: LinkRepository, view: NamespaceView, query: Query, allowed: NDArray[np.bool_]
) -> Followed:
    """Rank again with what the best memories are linked to."""
    seeds = [view.cube_ids[row] for row in ranking.rows[:SEEDS].tolist()]
    found = links.touching(seeds)
    if not found:
        return Followed(ranking)
    ranking = _joined(ranking, _linked(ranking, found, view, allowed), view, query)
    ranking, via = _spread(ranking, found, view)
    return Followed(_superseded(ranking, found, view, via), found, via)


def _linked(ranking: Ranking, links: Sequence[Link], view: NamespaceView, allowed: NDArray[np.bool_]) -> Rows:
    """Return the rows at the other ends of links that are not ranked yet."""
    ends = {end for link in links for end in (link.source_id, link.target_id)}
    rows = np.array(sorted(view.row_of[end] for end in ends if end in view.row_of), np.int64)
    return np.setdiff1d(rows[allowed[rows]], ranking.rows)


def _joined(ranking: Ranking, rows: Rows, view: NamespaceView, query: Query) -> Ranking:
    if not len(rows):
        return ranking
    more = scored(view, query, rows)
    parts = {name: np.concatenate([part, more.parts[name]]) for name, part in ranking.parts.items()}
    return ordered(np.concatenate([ranking.rows, more.rows]), parts)


def _spread(ranking: Ranking, links: Sequence[Link], view: NamespaceView) -> tuple[Ranking, dict[str, Link]]:
    place = _places(ranking, view)
    inherited = np.zeros(len(ranking.rows), np.float32)
    via: dict[str, Link] = {}
    for link in links:
        if link.type in IDLE:
            continue
        for giver, taker in ((link.source_id, link.target_id), (link.target_id, link.source_id)):
            if giver in place and taker in place:
                share = LINK * link.score * ranking.scores[place[giver]]
                if share > inherited[place[taker]]:
                    inherited[place[taker]] = share
                    via[taker] = link.seen_from(giver)
    return ordered(ranking.rows, {**ranking.parts, "links": inherited}), via


def _superseded(ranking: Ranking, links: Sequence[Link], view: NamespaceView, via: dict[str, Link]) -> Ranking:
    """Put what contradicts an earlier memory before that: it answers whatever that would answer."""
    place = _places(ranking, view)
    lifted = np.zeros(len(ranking.rows), np.float32)
    own, scores = ranking.scores, ranking.scores.copy()
    for link in _contradictions(links, place):
        newer, older = place[link.source_id], place[link.target_id]
        if view.valid_to[ranking.rows[older]] == NEVER and own[newer] < WORTHY * own[older]:
            continue
        missing = scores[older] + AHEAD - scores[newer]
        if missing > 0:
            scores[newer] += missing
            lifted[newer] += missing
            via[link.source_id] = link.seen_from(link.target_id)
    return ordered(ranking.rows, {**ranking.parts, "supersedes": lifted}) if lifted.any() else ranking


def _contradictions(links: Sequence[Link], place: dict[str, int]) -> list[Link]:
    """Return the contradictions between ranked memories, oldest first, so that the newest of several ends on top."""
    known = [
        link
        for link in links
        if link.type == LinkType.CONTRADICTS.value and link.source_id in place and link.target_id in place
    ]
    return sorted(known, key=lambda link: (link.target_id, link.source_id))


def _places(ranking: Ranking, view: NamespaceView) -> dict[str, int]:
    return {view.cube_ids[row]: index for index, row in enumerate(ranking.rows.tolist())}
