"""What is told of adapters and cartridges."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from memos.clock import from_us
from memos.cube import Frozen, Parent
from memos.store.adapters import AdapterRecord


class AdapterInfo(Frozen):
    """An adapter or cartridge of a namespace.

    ``payload`` is ``lora`` or ``cartridge``. ``state`` is ``published`` (served), ``superseded`` (an earlier
    ``version``, or fused with others since, which a rollback brings back) or ``rejected`` (it failed its gate, whose
    report is all there is). ``rank`` is the largest of an adapter, ``tokens`` the length of a cartridge. An imported
    one has no ``parents`` and no ``gate``.
    """

    cube_id: str
    name: str | None
    payload: str
    state: str
    version: int
    rank: int
    tokens: int
    bytes: int
    hits: int
    digest: str
    base: str
    gate: dict[str, Any] | None
    provenance: dict[str, Any]
    parents: tuple[Parent, ...]
    created_at: datetime

    @classmethod
    def of(cls, record: AdapterRecord) -> AdapterInfo:
        """Describe one as the store knows it."""
        return cls(
            cube_id=record.cube_id,
            name=record.name,
            payload=record.payload.value,
            state=record.state.value,
            version=record.version,
            rank=record.rank,
            tokens=record.tokens,
            bytes=record.bytes,
            hits=record.hits,
            digest=record.digest,
            base=record.base,
            gate=None if record.gate is None else dict(record.gate),
            provenance=dict(record.provenance),
            parents=tuple(Parent(cube_id=note, version=version) for note, version in record.sources),
            created_at=from_us(record.created_at),
        )
