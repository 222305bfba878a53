"""Which memories become one: they repeat each other, or are linked and hot, and nothing one of them says is denied.

Recall can be narrowed by author, agent, run and metadata, so memories are fused only where all of these are the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from memos.cube import MemCube, Parent
from memos.plaintext.notes.claims import clash
from memos.plaintext.notes.duplicates import denies, numbers
from memos.plaintext.notes.member import Member, member_of
from memos.plaintext.notes.sensitivity import SECRET, sensitivity

#: Memories in a cluster, and characters that they have together, at most: one vector has to stand for all of it.
MOST, LONGEST = 8, 2_000
#: Cosine from which two memories repeat each other, and from which linked ones are near enough.
REDUNDANT, RELATED = 0.8, 0.5
#: Heat from which linked memories are fused: as if each had just been used.
HOT = 1.0

Pair = frozenset[str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory that may be fused, with its heat by now. ``vector`` is of its text, float32, of unit length."""

    cube: MemCube
    vector: NDArray[np.float32]
    heat: float

    @property
    def key(self) -> str:
        """The memory's id."""
        return self.cube.id


@dataclass(frozen=True, slots=True)
class Cluster:
    """Memories that are fused, in the order of time; ``repeats`` says that they say nearly the same."""

    candidates: tuple[Candidate, ...]
    repeats: bool

    @property
    def sources(self) -> tuple[Parent, ...]:
        """Their versions."""
        return tuple(Parent(cube_id=one.cube.id, version=one.cube.version) for one in self.candidates)

    @property
    def texts(self) -> list[str]:
        """What they say."""
        return [one.cube.text or "" for one in self.candidates]

    @property
    def heat(self) -> float:
        """That of the hottest: recalled together, a use counts once in all of them."""
        return max(one.heat for one in self.candidates)


@dataclass(frozen=True, slots=True)
class Known:
    """What links say of pairs of memories: that they belong together, or that they contradict each other."""

    linked: Collection[Pair] = frozenset()
    opposed: Collection[Pair] = frozenset()


def clusters(candidates: Sequence[Candidate], known: Known) -> Iterator[Cluster]:
    """Yield disjoint clusters, of each kind of circumstances that with the hottest memory first."""
    for group in _alike(candidates):
        yield from _Finder(group, known).found()


def compatible(candidates: Sequence[Candidate], known: Known) -> Cluster | None:
    """Return as much of what belongs together as can still be fused, ``None`` if that is no two memories."""
    largest = max(_alike(candidates), key=len, default=None)
    return None if largest is None else _Finder(largest, known).all_of_it()


class _Finder:
    """Grows clusters within memories of equal circumstances."""

    def __init__(self, group: Sequence[Candidate], known: Known) -> None:
        vectors = np.stack([one.vector for one in group])
        self._group = group
        self._similar = vectors @ vectors.T
        self._known = known
        self._members: dict[int, Member] = {}

    def found(self) -> Iterator[Cluster]:
        left = dict.fromkeys(range(len(self._group)))
        while left:
            seed = next(iter(left))
            near = [one for one in self._near(seed) if one in left and one != seed and self._belong(seed, one)]
            places = self._grown(seed, sorted(near, key=lambda one: (-self._similar[seed, one], one)))
            for place in places:
                del left[place]
            if len(places) > 1:
                yield self._cluster(places)

    def all_of_it(self) -> Cluster | None:
        places = self._grown(0, range(1, len(self._group)))
        return self._cluster(places) if len(places) > 1 else None

    def _grown(self, seed: int, others: Sequence[int]) -> list[int]:
        places, length = [seed], self._length(seed)
        for one in others:
            if len(places) == MOST or length + self._length(one) > LONGEST:
                continue
            if not any(self._at_odds(one, place) for place in places):
                places.append(one)
                length += self._length(one)
        return places

    def _cluster(self, places: Sequence[int]) -> Cluster:
        repeats = all(self._similar[places[0], one] >= REDUNDANT for one in places)
        return Cluster(tuple(sorted((self._group[one] for one in places), key=_in_time)), repeats)

    def _near(self, seed: int) -> list[int]:
        places: list[int] = np.flatnonzero(self._similar[seed] >= RELATED).tolist()
        return places

    def _belong(self, seed: int, other: int) -> bool:
        """Whether two memories repeat each other, or are linked, both hot, and about the same."""
        if self._similar[seed, other] >= REDUNDANT:
            return True
        one, two = self._group[seed], self._group[other]
        linked = frozenset((one.key, two.key)) in self._known.linked
        return linked and min(one.heat, two.heat) >= HOT and bool(self._similar[seed, other] >= RELATED)

    def _at_odds(self, one: int, other: int) -> bool:
        """Whether one memory takes something of the other back, as far as rules and links can tell."""
        if frozenset((self._group[one].key, self._group[other].key)) in self._known.opposed:
            return True
        mine, theirs = self._member(one), self._member(other)
        if clash(mine.claims, theirs.claims) or clash(theirs.claims, mine.claims):
            return True
        if self._similar[one, other] < REDUNDANT:
            return False
        own, its = numbers(mine.spoken), numbers(theirs.spoken)  # nearly the same words, but for what matters
        return denies(mine.spoken) != denies(theirs.spoken) or not (own <= its or its <= own)

    def _member(self, place: int) -> Member:
        if place not in self._members:
            self._members[place] = member_of(self._group[place].cube, self._group[place].vector)
        return self._members[place]

    def _length(self, place: int) -> int:
        return len(self._group[place].cube.text or "")


def _alike(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Yield groups of several memories of the same circumstances, the hottest of each first; secrets are in none."""
    open_ = [one for one in candidates if SECRET not in (one.cube.governance.sensitivity, sensitivity(_text(one)))]
    ordered = sorted(open_, key=lambda one: (repr(_circumstances(one)), -one.heat, one.key))
    for _, group in groupby(ordered, _circumstances):
        alike = list(group)
        if len(alike) > 1:
            yield alike


def _circumstances(one: Candidate) -> Hashable:
    cube = one.cube
    narrowed = (cube.provenance.author, cube.scope.agent_id, cube.scope.run_id, cube.governance.acl)
    return *narrowed, cube.governance.sensitivity, json.dumps(cube.metadata, sort_keys=True)


def _in_time(one: Candidate) -> tuple[float, str]:
    return (one.cube.time.event_time or one.cube.time.created_at).timestamp(), one.key


def _text(one: Candidate) -> str:
    return one.cube.text or ""
