"""Within the bytes of a tier: what comes in, and what is given up for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memos.schedule.moving.move import Move


def fitted(wanted: Iterable[Move], leaving: Sequence[Move], room: int) -> list[Move]:
    """Return moves in the order in which they are to be carried out.

    ``wanted`` are promotions, the best first; ``leaving`` the demotions that could be, the first to go first. ``room``
    is the bytes that may still be added: of too many, as much goes as has to. Beyond, nothing is given up for a
    promotion that is worth as much per byte.
    """
    left, moves = list(leaving), []
    while left and room < 0:
        moves.append(left.pop(0))
        room += moves[-1].bytes
    for move in wanted:
        given_up = _room_for(move, left, room)
        if given_up is None:
            continue
        moves += [*given_up, move]
        left = left[len(given_up) :]
        room += sum(one.bytes for one in given_up) - move.bytes
    return moves


def _room_for(move: Move, leaving: Sequence[Move], room: int) -> list[Move] | None:
    """Return which cubes to give up for a promotion; ``None`` if one of them is worth as much per byte."""
    given_up: list[Move] = []
    for one in leaving:
        if room >= move.bytes:
            break
        if one.density >= move.density:
            return None
        given_up.append(one)
        room += one.bytes
    return given_up if room >= move.bytes else None
