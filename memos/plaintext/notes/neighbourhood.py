"""The memories that a new one may have to do with: near in meaning, of the same names or claims, just before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memos.cube import Scope
from memos.plaintext.analysis import terms
from memos.plaintext.notes.claims import Claim
from memos.plaintext.notes.entities import entities
from memos.plaintext.notes.member import Draft, Member, Near, member_of
from memos.plaintext.ranking import best
from memos.store.cubes import CubeRepository
from memos.store.view import NONE, NamespaceView

#: Memories looked at: the nearest in meaning, the best matches of the names in the new text, and those of the same
#: author that match best what a claim in it is about.
BY_MEANING, BY_NAMES, BY_CLAIM = 10, 6, 3
#: Claims of one text that are followed up.
CLAIMS = 4
#: Earlier memories that a job keeps at most.
KNOWN = 8_192
_UNSEEN = "\0"

Rows = NDArray[np.int64]
Names = Mapping[str, frozenset[str]]


class Acquaintances:
    """Earlier memories that one job has read, since those of its next batch are often the same.

    They are known by their last revision and their embedder too: whatever becomes of a memory, it is read again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], Member] = {}

    def of(self, view: NamespaceView, repository: CubeRepository, rows: Collection[int], scope: Scope) -> list[Member]:
        """Return the memories of some rows, those that the view's embedder has a vector of."""
        wanted = {(view.cube_ids[row], int(view.row_revision[row]), view.embedder_id) for row in rows}
        if len(self._known) > KNOWN:
            self._known.clear()
        missing = sorted(wanted - self._known.keys())
        read = _members(repository, [cube_id for cube_id, _, _ in missing], scope, view.embedder_id)
        self._known.update({key: read[key[0]] for key in missing if key[0] in read})
        return [self._known[key] for key in wanted if key in self._known]


def drafts_of(
    view: NamespaceView, connection: Connection, scope: Scope, cube_ids: Sequence[str], known: Acquaintances
) -> list[Draft]:
    """Return drafts of memories that the view knows, in the order of their ids.

    A draft is held against memories whose notes are written, and against those before it in ``cube_ids``.
    """
    repository = CubeRepository(connection, view.namespace_id)
    ids = [cube_id for cube_id in sorted(cube_ids) if cube_id in view.row_of]
    members = _members(repository, ids, scope, view.embedder_id)
    ids = [cube_id for cube_id in ids if cube_id in members]
    names = [_names(members[cube_id]) for cube_id in ids]
    around = _around(view, [members[cube_id] for cube_id in ids], names)
    others = {row for rows in around for row in rows if view.cube_ids[row] not in members}
    members.update({member.cube.id: member for member in known.of(view, repository, others, scope)})
    drafts = []
    for cube_id, named, rows in zip(ids, names, around, strict=True):
        near = [members[view.cube_ids[row]] for row in rows if view.cube_ids[row] in members]
        drafts.append(Draft(members[cube_id], _near(view, members[cube_id], named, near)))
    return drafts


def _members(repository: CubeRepository, ids: Sequence[str], scope: Scope, embedder_id: int) -> dict[str, Member]:
    cubes = repository.get(ids, scope)
    vectors = repository.vectors([(cube.id, cube.version) for cube in cubes.values()], embedder_id)
    return {name: member_of(cube, vectors[name]) for name, cube in cubes.items() if name in vectors}


def _around(view: NamespaceView, new: Sequence[Member], names: Sequence[Names]) -> list[list[int]]:
    """Return the rows that each of the new memories is held against."""
    rows = np.array([view.row_of[member.cube.id] for member in new], np.int64)
    settled = view.current & view.recallable & ~view.waiting
    similar = view.vectors @ view.vectors[rows].T
    found = []
    for place, row in enumerate(rows.tolist()):
        allowed = settled.copy()
        allowed[rows[:place]] = view.recallable[rows[:place]]
        allowed[row] = False
        scores = np.where(allowed, similar[:, place], -np.inf)
        chosen = {*best(scores, BY_MEANING).tolist(), *_named(view, names[place]), int(view.chain[0][row])}
        mine = allowed & (view.speaker == view.speaker[row])
        chosen |= {one for claim in new[place].claims.claims[:CLAIMS] for one in _claimed(view, claim, mine)}
        found.append(sorted(one for one in chosen if one != NONE and allowed[one]))
    return found


def _named(view: NamespaceView, names: Names) -> list[int]:
    """Return the rows that match some names best."""
    weights = {stem: view.lexical.idf(stem) for stems in names.values() for stem in stems}
    scores = view.lexical.scores(weights)
    hit = np.flatnonzero(scores)
    return [int(row) for row in hit[best(scores[hit], BY_NAMES + 1)]]


def _claimed(view: NamespaceView, claim: Claim, mine: NDArray[np.bool_]) -> list[int]:
    """Return the rows among ``mine`` that match best what a claim is about."""
    about = claim.about or frozenset(terms(claim.thing))
    scores = view.lexical.scores({stem: view.lexical.idf(stem) for stem in about})
    hit = np.flatnonzero(scores)
    hit = hit[mine[hit]]
    return [int(row) for row in hit[best(scores[hit], BY_CLAIM)]]


def _near(view: NamespaceView, member: Member, names: Names, others: Sequence[Member]) -> list[Near]:
    before = int(view.chain[0][view.row_of[member.cube.id]])
    previous = None if before == NONE else view.cube_ids[before]
    most = view.lexical.idf(_UNSEEN)
    found = []
    for other in others:
        shared = tuple(name for name, stems in names.items() if stems <= other.stems)
        told = [sum(map(view.lexical.idf, names[name])) / len(names[name]) / most for name in shared]
        similarity = float(member.vector @ other.vector)
        found.append(Near(other, similarity, shared, max(told, default=0.0), other.cube.id == previous))
    return sorted(found, key=lambda near: (-near.similarity, near.member.cube.id))


def _names(member: Member) -> Names:
    """Return the names in a text with their stems."""
    found = {name: frozenset(terms(name)) for name in entities(member.spoken, member.cube.provenance.author)}
    return {name: stems for name, stems in found.items() if stems}
