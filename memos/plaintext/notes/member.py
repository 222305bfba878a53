"""A memory as the writing of notes looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memos.cube import MemCube
from memos.plaintext.analysis import terms
from memos.plaintext.notes.claims import Said, said
from memos.plaintext.notes.offline import without_speaker


@dataclass(frozen=True, slots=True)
class Member:
    """A memory with what comparing it needs. ``vector`` is of its text, float32 ``[dimension]``, of unit length."""

    cube: MemCube
    vector: NDArray[np.float32]
    spoken: str
    stems: frozenset[str]
    claims: Said

    @property
    def key(self) -> tuple[str, int]:
        """Cube id and version."""
        return self.cube.id, self.cube.version


@dataclass(frozen=True, slots=True)
class Near:
    """An earlier memory that a new one may have to do with.

    ``similarity`` is the cosine of the two texts. ``names`` are the entities they share, ``rarity`` what these tell, 0
    to 1: a name that stands in most memories tells nothing. ``before`` says that it is the one just before in its
    session.
    """

    member: Member
    similarity: float
    names: tuple[str, ...] = ()
    rarity: float = 0.0
    before: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A new memory whose note is to be written, with the earlier ones nearest to it, best first."""

    member: Member
    near: Sequence[Near] = field(default=())


def member_of(cube: MemCube, vector: NDArray[np.float32]) -> Member:
    """Return a memory with its words and claims."""
    text = spoken(cube)
    stems = frozenset(terms(text))
    return Member(cube, vector, text, stems, said(text, cube.provenance.author, stems))


def spoken(cube: MemCube) -> str:
    """Return the text of a memory without the name of who says it."""
    return without_speaker(cube.text or "", cube.provenance.author)
