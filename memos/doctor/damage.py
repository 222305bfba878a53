"""What can be wrong with a store, thing by thing, and whether it can be put right from what is left."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from memos.cube import Scope


class Harm(StrEnum):
    """What happened to a thing.

    All but the last can be made good: whatever is derived from memories is dropped or made again. A memory's text that
    is not what was stored can only come from a backup.
    """

    LOST = "file-lost"
    DAMAGED = "file-damaged"
    TERMS = "terms"
    INDEX = "index"
    COUNT = "count"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it should be. ``tier`` names that of a file, ``detail`` says more, never content."""

    harm: Harm
    scope: Scope
    namespace_id: int
    cube_id: str | None = None
    version: int | None = None
    tier: str | None = None
    detail: str = ""

    @property
    def name(self) -> str:
        """The namespace as people write it."""
        return f"{self.scope.tenant}/{self.scope.user_id}"
