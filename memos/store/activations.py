"""Activation cubes and the index of their KV files, within one namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, func

from memos.cube import Kind, MemCube, Scope
from memos.store.lineage import DerivedHeader, LineageRepository, Source
from memos.store.schema import activations


@dataclass(frozen=True, slots=True)
class Activation:
    """One KV file: which cube it is the payload of, what it was made from and how big it is.

    ``head_tokens`` of the ``tokens`` are the constant start of a prompt, the others its memories. ``bytes`` is the
    size of the file, ``raw_bytes`` that of the cache it decodes to. ``sources`` stand in the order of the bundle.
    ``loss`` is the KL divergence per token (nats) that a lossy codec was measured to cost.
    """

    cube_id: str
    key: str
    fingerprint: str
    codec: str
    tokens: int
    head_tokens: int
    bytes: int
    raw_bytes: int
    sha256: str
    created_at: int
    sources: tuple[Source, ...]
    loss: float | None = None
    hits: int = 0
    misses: int = 0
    tokens_reused: int = 0


class ActivationRepository(LineageRepository):
    """Reads and writes the activation cubes of one namespace."""

    # ------------------------------------------------------------ writing

    def insert(self, activation: Activation, revision: int) -> None:
        """Write a cube, its lineage and its place in the index."""
        self._insert_cube(_header(activation), revision)
        row = {name: getattr(activation, name) for name in _INDEX_COLUMNS}
        self._insert(activations, [row])

    def remove(self, cube_ids: Sequence[str]) -> dict[str, str]:
        """Delete activation cubes with their lineage; return the keys of the files that must follow, by cube id."""
        return {row.cube_id: row.key for row in self._remove_cubes(activations, cube_ids)}

    def invalidate(self, note_ids: Sequence[str]) -> dict[str, str]:
        """Do the same with every activation cube made from one of these notes, whichever version."""
        return self.remove(sorted(self._made_from(activations, note_ids)))

    def count_use(self, cube_id: str, *, hits: int = 0, misses: int = 0, tokens: int = 0) -> None:
        """Add to the counters of a cube."""
        statement = (
            self._update(activations)
            .where(activations.c.cube_id == cube_id)
            .values(
                hits=activations.c.hits + hits,
                misses=activations.c.misses + misses,
                tokens_reused=activations.c.tokens_reused + tokens,
            )
        )
        self.connection.execute(statement)

    def set_file(self, cube_id: str, key: str, sha256: str) -> None:
        """Name the file that a restored cube has here."""
        statement = self._update(activations).where(activations.c.cube_id == cube_id)
        self.connection.execute(statement.values(key=key, sha256=sha256))

    # ------------------------------------------------------------ reading

    def all(self) -> list[Activation]:
        """Return every activation cube, oldest first."""
        return self._read(self._select(activations).order_by(activations.c.cube_id))

    def get(self, cube_id: str) -> Activation | None:
        """Return one activation cube."""
        found = self._read(self._select(activations).where(activations.c.cube_id == cube_id))
        return found[0] if found else None

    def by_key(self, key: str) -> Activation | None:
        """Return the activation cube whose file has this key."""
        found = self._read(self._select(activations).where(activations.c.key == key))
        return found[0] if found else None

    def touching(self, note_ids: Sequence[str], fingerprint: str) -> list[Activation]:
        """Return the activation cubes of a model that were made from at least one of these notes."""
        chosen = self._select(activations).where(
            activations.c.fingerprint == fingerprint, activations.c.cube_id.in_(self._made_from(activations, note_ids))
        )
        return self._read(chosen.order_by(activations.c.cube_id))

    def cube(self, cube_id: str, scope: Scope) -> MemCube | None:
        """Return an activation cube as callers see cubes; its ``metadata`` describes the file."""
        activation = self.get(cube_id)
        if activation is None:
            return None
        return self._cube(
            cube_id,
            scope,
            digest=activation.sha256,
            metadata=described(activation),
            sources=activation.sources,
        )

    def totals(self) -> dict[str, int]:
        """Return the number of activation cubes, and their bytes, tokens, hits and misses."""
        columns = ("bytes", "raw_bytes", "tokens", "hits", "misses", "tokens_reused")
        sums = [func.coalesce(func.sum(activations.c[name]), 0).label(name) for name in columns]
        row = self.connection.execute(self._select(activations, func.count().label("count"), *sums)).mappings().one()
        return {name: int(value) for name, value in row.items()}

    # ------------------------------------------------------------ inside

    def _read(self, statement: Select[Any]) -> list[Activation]:
        rows = self.connection.execute(statement).all()
        sources = self._sources([row.cube_id for row in rows])
        return [_activation(row, sources.get(row.cube_id, ())) for row in rows]


_INDEX_COLUMNS = (
    "cube_id",
    "key",
    "fingerprint",
    "codec",
    "tokens",
    "head_tokens",
    "bytes",
    "raw_bytes",
    "sha256",
    "loss",
    "created_at",
)


def _activation(row: Row[Any], sources: tuple[Source, ...]) -> Activation:
    counters = {name: getattr(row, name) for name in ("hits", "misses", "tokens_reused")}
    return Activation(**{name: getattr(row, name) for name in _INDEX_COLUMNS}, **counters, sources=sources)


def _header(activation: Activation) -> DerivedHeader:
    return DerivedHeader(activation.cube_id, Kind.ACTIVATION, activation.created_at, activation.sources)


def described(activation: Activation) -> dict[str, Any]:
    """Return what a reader wants to know of a KV file, as plain data."""
    names = ("fingerprint", "codec", "tokens", "bytes", "raw_bytes", "loss", "hits", "misses", "tokens_reused")
    return {name: getattr(activation, name) for name in names}
