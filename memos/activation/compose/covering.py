"""Which activation cubes stand for the recalled memories together: disjoint ones, the most telling first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from memos.activation.bundle import MIN_SHARE
from memos.store.activations import Activation

#: The most cubes in one prompt: more, of ever fewer memories, are not worth the turning.
MOST = 32


def disjoint(cubes: Sequence[Activation], wanted: Collection[str], room: int, most: int) -> list[Activation]:
    """Return ``most`` cubes with no memory in common that cover as many wanted ones as taking the best gives.

    One is taken if it covers enough of what is wanted, or if enough of it is wanted, and it fits: ``room`` counts
    tokens, the head once.
    """
    chosen: list[Activation] = []
    left, held = set(wanted), set[str]()
    while len(chosen) < most:
        fitting = [one for one in cubes if not held & _notes(one) and _useful(one, wanted) and _size(one) <= room]
        best = min(fitting, key=lambda one: (-len(left & _notes(one)), one.tokens, one.cube_id), default=None)
        if best is None or not left & _notes(best):
            break
        chosen.append(best)
        left -= _notes(best)
        held |= _notes(best)
        room -= _size(best)
    return chosen


def covers_enough(cube: Activation, wanted: Collection[str]) -> bool:
    """Return whether a cube stands for enough of the wanted memories to begin a prompt alone."""
    return len(_notes(cube) & set(wanted)) >= MIN_SHARE * len(wanted)


def _useful(cube: Activation, wanted: Collection[str]) -> bool:
    mine = _notes(cube)
    return covers_enough(cube, wanted) or len(mine & set(wanted)) >= MIN_SHARE * len(mine)


def _notes(cube: Activation) -> set[str]:
    return {note for note, _ in cube.sources}


def _size(cube: Activation) -> int:
    return cube.tokens - cube.head_tokens
