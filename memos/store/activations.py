"""Activation cubes and the index of their KV files, within one namespace."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, and_, func

from memos.clock import from_us
from memos.cube import RECALLABLE, Kind, MemCube, Scope, State
from memos.store.schema import activations, cubes, parents
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: One exact version of a note, as ``(cube id, version)``.
Source = tuple[str, int]


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


class ActivationRepository(ScopedRepository):
    """Reads and writes the activation cubes of one namespace."""

    # ------------------------------------------------------------ writing

    def insert(self, activation: Activation, revision: int) -> None:
        """Write a cube, its lineage and its place in the index."""
        self._insert(cubes, [_cube_row(activation, revision)])
        self._insert(parents, _parent_rows(activation))
        row = {name: getattr(activation, name) for name in _INDEX_COLUMNS}
        self._insert(activations, [row])

    def remove(self, cube_ids: Sequence[str]) -> list[str]:
        """Delete activation cubes with their lineage; return the keys of the files that must follow."""
        keys: list[str] = []
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            mine = self._select(activations, activations.c.cube_id, activations.c.key).where(
                activations.c.cube_id.in_(chunk)
            )
            found = self.connection.execute(mine).all()
            gone = [row.cube_id for row in found]
            keys += [row.key for row in found]
            self.connection.execute(self._delete(parents).where(parents.c.cube_id.in_(gone)))
            self.connection.execute(self._delete(activations).where(activations.c.cube_id.in_(gone)))
            self.connection.execute(self._delete(cubes).where(cubes.c.id.in_(gone)))
        return keys

    def invalidate(self, note_ids: Sequence[str]) -> list[str]:
        """Delete every activation cube made from one of these notes, whichever version; return the files' keys."""
        return self.remove(sorted(self._made_from(note_ids)))

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
            activations.c.fingerprint == fingerprint, activations.c.cube_id.in_(self._made_from(note_ids))
        )
        return self._read(chosen.order_by(activations.c.cube_id))

    def live(self, sources: Collection[Source], scope: Scope, now: int) -> set[Source]:
        """Return which note versions are current, recallable, unexpired, and within the scope's agent and run."""
        ids = sorted({cube_id for cube_id, _ in sources})
        living: set[Source] = set()
        for start in range(0, len(ids), IN_CHUNK):
            chunk = ids[start : start + IN_CHUNK]
            statement = self._select(cubes).where(cubes.c.id.in_(chunk), cubes.c.kind == Kind.PLAINTEXT.value)
            rows = self.connection.execute(statement)
            living.update((row.id, row.version) for row in rows if _holds(row, scope, now))
        return living & set(sources)

    def cube(self, cube_id: str, scope: Scope) -> MemCube | None:
        """Return an activation cube as callers see cubes; its ``metadata`` describes the file."""
        activation = self.get(cube_id)
        if activation is None:
            return None
        row = self.connection.execute(self._select(cubes).where(cubes.c.id == cube_id)).one()
        return _cube(activation, row, scope)

    def totals(self) -> dict[str, int]:
        """Return the number of activation cubes, and their bytes, tokens, hits and misses."""
        columns = ("bytes", "raw_bytes", "tokens", "hits", "misses", "tokens_reused")
        sums = [func.coalesce(func.sum(activations.c[name]), 0).label(name) for name in columns]
        row = self.connection.execute(self._select(activations, func.count().label("count"), *sums)).mappings().one()
        return {name: int(value) for name, value in row.items()}

    # ------------------------------------------------------------ inside

    def _made_from(self, note_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(note_ids), IN_CHUNK):
            chunk = note_ids[start : start + IN_CHUNK]
            statement = (
                self._select(parents, parents.c.cube_id)
                .join_from(parents, activations, and_(activations.c.cube_id == parents.c.cube_id))
                .where(parents.c.parent_id.in_(chunk))
            )
            found.update(self.connection.scalars(statement))
        return found

    def _read(self, statement: Select[Any]) -> list[Activation]:
        rows = self.connection.execute(statement).all()
        sources = self._sources([row.cube_id for row in rows])
        return [_activation(row, sources.get(row.cube_id, ())) for row in rows]

    def _sources(self, cube_ids: Sequence[str]) -> dict[str, tuple[Source, ...]]:
        found: dict[str, tuple[Source, ...]] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            statement = self._select(parents).where(parents.c.cube_id.in_(chunk)).order_by(parents.c.position)
            for row in self.connection.execute(statement):
                source = (row.parent_id, row.parent_version)
                found[row.cube_id] = (*found.get(row.cube_id, ()), source)
        return found


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


def _holds(row: Row[Any], scope: Scope, now: int) -> bool:
    return (
        State(row.state) in RECALLABLE
        and (row.expires_at is None or row.expires_at > now)
        and (row.valid_to is None or row.valid_to > now)
        and scope.agent_id in (None, row.agent_id)
        and scope.run_id in (None, row.run_id)
    )


def _activation(row: Row[Any], sources: tuple[Source, ...]) -> Activation:
    counters = {name: getattr(row, name) for name in ("hits", "misses", "tokens_reused")}
    return Activation(**{name: getattr(row, name) for name in _INDEX_COLUMNS}, **counters, sources=sources)


def _parent_rows(activation: Activation) -> list[dict[str, Any]]:
    return [
        {"cube_id": activation.cube_id, "parent_id": note, "parent_version": version, "position": position}
        for position, (note, version) in enumerate(activation.sources)
    ]


def _cube_row(activation: Activation, revision: int) -> dict[str, Any]:
    return {
        "id": activation.cube_id,
        "kind": Kind.ACTIVATION.value,
        "state": State.ACTIVATED.value,
        "version": 1,
        "revision": revision,
        "agent_id": None,
        "run_id": None,
        "source": "promote",
        "author": None,
        "infer": False,
        "sensitivity": "normal",
        "pinned": False,
        "frozen": False,
        "acl": [],
        "created_at": activation.created_at,
        "updated_at": activation.created_at,
        "valid_to": None,
        "expires_at": None,
        "recall_count": 0,
        "last_recalled_at": None,
        "heat": 0.0,
    }


def _cube(activation: Activation, row: Row[Any], scope: Scope) -> MemCube:
    made = from_us(row.created_at)
    return MemCube.model_validate(
        {
            "id": row.id,
            "scope": {"tenant": scope.tenant, "user_id": scope.user_id},
            "kind": row.kind,
            "state": row.state,
            "version": row.version,
            "digest": activation.sha256,
            "metadata": described(activation),
            "time": {"created_at": made, "updated_at": from_us(row.updated_at), "valid_from": made},
            "provenance": {
                "source": row.source,
                "infer": row.infer,
                "parents": [{"cube_id": note, "version": version} for note, version in activation.sources],
            },
        }
    )


def described(activation: Activation) -> dict[str, Any]:
    """Return what a reader wants to know of a KV file, as plain data."""
    names = ("fingerprint", "codec", "tokens", "bytes", "raw_bytes", "loss", "hits", "misses", "tokens_reused")
    return {name: getattr(activation, name) for name in names}
