"""A move: a cube made of memories, or one given up, with the numbers that spoke for it. Never content."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from memos.cube import Frozen, Kind, Parent


class Action(StrEnum):
    """Up or down a tier; into one memory, or back into several."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    FUSE = "fuse"
    SPLIT = "split"


class Move(Frozen):
    """One move within a namespace.

    ``sources`` are the memories in the cube, which stay where they are; what was fused is put away. ``uses`` are those
    expected within a half life of heat, ``seconds_saved`` is what each saves, ``bytes`` what the cube takes. One that
    was carried out has an ``id`` and a time, the ``job_id`` of what a job makes, and ``undoes``, the move that it took
    back.
    """

    action: Action
    tier: Kind
    cube_id: str | None = None
    sources: tuple[Parent, ...]
    uses: float
    seconds_saved: float
    bytes: int
    reason: str
    codec: str | None = None
    id: str | None = None
    job_id: str | None = None
    undoes: str | None = None
    created_at: datetime | None = None

    @property
    def density(self) -> float:
        """Seconds saved within a half life, per byte."""
        return self.uses * self.seconds_saved / max(1, self.bytes)
