"""What is told of KV files: one by one, and after a rebuild of their index."""

from __future__ import annotations

from memos.cube import Frozen
from memos.store.activations import Activation


class KVFile(Frozen):
    """One KV file of a namespace.

    ``raw_bytes`` are those of the cache it decodes to, ``loss`` the KL divergence (nats per token) that its codec was
    measured to cost there, 0 without loss. ``problem`` says why it cannot be used, where it was read to find out.
    """

    cube_id: str
    codec: str
    tokens: int
    bytes: int
    raw_bytes: int
    memories: int
    hits: int
    loss: float = 0.0
    problem: str | None = None

    @classmethod
    def of(cls, activation: Activation, problem: str | None = None) -> KVFile:
        """Describe a file as the index knows it."""
        return cls(
            cube_id=activation.cube_id,
            codec=activation.codec,
            tokens=activation.tokens,
            bytes=activation.bytes,
            raw_bytes=activation.raw_bytes,
            memories=len(activation.sources),
            hits=activation.hits,
            loss=activation.loss or 0.0,  # measured of every lossy file, and of no other
            problem=problem,
        )


class RebuildReport(Frozen):
    """What a rebuild did: cubes kept as they were, written anew, dropped for want of a usable file; files removed."""

    kept: int = 0
    restored: int = 0
    dropped: int = 0
    removed: int = 0
