"""Parametric cubes within one namespace: adapters and cartridges, their versions, and reports of those that failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, Select, func, or_

from memos.cube import Kind, MemCube, Scope, State
from memos.store.lineage import DerivedHeader, LineageRepository, Source
from memos.store.schema import adapters, cubes
from memos.store.scoped import IN_CHUNK


class Payload(StrEnum):
    """What a parametric cube holds."""

    LORA = "lora"
    CARTRIDGE = "cartridge"


class AdapterState(StrEnum):
    """Whether it is served: the published one of its series is, an earlier version or a failed one is not."""

    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


_CUBE_STATES = {
    AdapterState.PUBLISHED: State.ACTIVATED,
    AdapterState.SUPERSEDED: State.ARCHIVED,
    AdapterState.REJECTED: State.QUARANTINED,
}


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter or cartridge: which cube it is the payload of, what it was made from, and what is known of it.

    ``key`` names the file, which a rejected one has not. ``digest`` is the content, ``base`` the model it belongs to.
    ``bytes`` is the size of the file, ``rank`` the largest of an adapter, ``tokens`` the length of a cartridge.
    ``sources`` are the note versions it was made from; an imported one has none, and no ``gate`` report either.
    ``provenance["options"]`` are the options of the job that made it. ``version`` is given by the repository.
    """

    cube_id: str
    key: str | None
    digest: str
    base: str
    payload: Payload
    name: str | None
    state: AdapterState
    rank: int
    bytes: int
    tokens: int
    gate: Mapping[str, Any] | None
    provenance: Mapping[str, Any]
    created_at: int
    sources: tuple[Source, ...]
    version: int = 0
    hits: int = 0

    @property
    def source(self) -> str:
        """How it came about: ``promote``, ``import`` or ``fusion``."""
        return str(self.provenance.get("source", "promote"))

    @property
    def parts(self) -> tuple[str, ...]:
        """The adapters it was fused from, which are not served while it is."""
        return tuple(self.provenance.get("fused", ()))

    @property
    def series(self) -> str:
        """What it is a version of, as a hex SHA-256: its name, else its notes, else nothing but itself."""
        notes = sorted(cube_id for cube_id, _ in self.sources)
        subject = ["name", self.name] if self.name is not None else ["notes", notes] if notes else [self.digest]
        return hashlib.sha256(json.dumps([self.payload, self.base, *subject]).encode()).hexdigest()


class AdapterRepository(LineageRepository):
    """Reads and writes the parametric cubes of one namespace."""

    # ------------------------------------------------------------ writing

    def insert(self, record: AdapterRecord, revision: int) -> AdapterRecord:
        """Write a cube as the newest version of its series.

        A published one takes the place of the one before it, and of what it was fused from.
        """
        newest = self._select(adapters, func.max(adapters.c.version)).where(adapters.c.series == record.series)
        record = replace(record, version=(self.connection.scalar(newest) or 0) + 1)
        if record.state is AdapterState.PUBLISHED:
            self._supersede(record, revision, record.created_at)
        self._insert_cube(_header(record), revision)
        self._insert(adapters, [_row(record)])
        return record

    def reinstate(self, record: AdapterRecord, revision: int, at: int) -> None:
        """Publish a version that was superseded, in the place of the one that is published now."""
        self._supersede(record, revision, at)
        self._set_state([record.cube_id], AdapterState.PUBLISHED, revision, at)

    def take_apart(self, record: AdapterRecord, revision: int, at: int) -> None:
        """Serve a fused adapter no more; what it was fused from can be reinstated."""
        self._set_state([record.cube_id], AdapterState.SUPERSEDED, revision, at)

    def remove(self, cube_ids: Sequence[str]) -> list[AdapterRecord]:
        """Delete parametric cubes with their lineage; return them, whose files must follow."""
        removed = self._chosen(cube_ids)
        self._remove_cubes(adapters, [record.cube_id for record in removed])
        return removed

    def invalidate(self, note_ids: Sequence[str]) -> list[AdapterRecord]:
        """Delete every parametric cube made from one of these notes, whichever version; return them."""
        return self.remove(sorted(self._made_from(adapters, note_ids)))

    def count_use(self, cube_ids: Sequence[str]) -> None:
        """Count a use of each."""
        statement = self._update(adapters).where(adapters.c.cube_id.in_(cube_ids)).values(hits=adapters.c.hits + 1)
        self.connection.execute(statement)

    def set_file(self, cube_id: str, key: str) -> None:
        """Name the file that a restored cube has here."""
        self.connection.execute(self._update(adapters).where(adapters.c.cube_id == cube_id).values(key=key))

    # ------------------------------------------------------------ reading

    def all(self) -> list[AdapterRecord]:
        """Return every parametric cube, oldest first."""
        return self._read(self._select(adapters).order_by(adapters.c.cube_id))

    def get(self, cube_id: str) -> AdapterRecord | None:
        """Return one parametric cube."""
        return next(iter(self._chosen([cube_id])), None)

    def by_key(self, key: str) -> AdapterRecord | None:
        """Return the parametric cube whose file has this key."""
        return next(iter(self._read(self._select(adapters).where(adapters.c.key == key))), None)

    def versions(self, series: str) -> list[AdapterRecord]:
        """Return what there is of a series, oldest version first."""
        chosen = self._select(adapters).where(adapters.c.series == series)
        return self._read(chosen.order_by(adapters.c.version))

    def published(self, base: str, note_ids: Sequence[str] | None = None) -> list[AdapterRecord]:
        """Return what is published for a model and made from notes: from one of these at least, if any are named."""
        known = self._select(adapters).where(adapters.c.state == AdapterState.PUBLISHED.value, adapters.c.base == base)
        if note_ids is None:
            return [record for record in self._read(known.order_by(adapters.c.cube_id)) if record.sources]
        ids = sorted(self._made_from(adapters, note_ids))
        return [record for record in self._chosen(ids, known) if record.sources]

    def cube(self, cube_id: str, scope: Scope) -> MemCube | None:
        """Return a parametric cube as callers see cubes; its ``metadata`` describes the payload."""
        record = self.get(cube_id)
        if record is None:
            return None
        return self._cube(
            cube_id,
            scope,
            digest=record.digest,
            metadata=described(record),
            sources=record.sources,
        )

    def totals(self) -> dict[str, int]:
        """Return how many are published (``count``), and the bytes and hits of all."""
        sums = [func.coalesce(func.sum(adapters.c[name]), 0).label(name) for name in ("bytes", "hits")]
        published = func.count().filter(adapters.c.state == AdapterState.PUBLISHED.value).label("count")
        row = self.connection.execute(self._select(adapters, published, *sums)).mappings().one()
        return {name: int(value) for name, value in row.items()}

    # ------------------------------------------------------------ inside

    def _supersede(self, record: AdapterRecord, revision: int, at: int) -> None:
        known = self._select(adapters, adapters.c.cube_id).where(adapters.c.state == AdapterState.PUBLISHED.value)
        present = known.where(or_(adapters.c.series == record.series, adapters.c.cube_id.in_(record.parts)))
        if published := self.connection.scalars(present).all():
            self._set_state(published, AdapterState.SUPERSEDED, revision, at)

    def _set_state(self, cube_ids: Sequence[str], state: AdapterState, revision: int, at: int) -> None:
        rows = self._update(adapters).where(adapters.c.cube_id.in_(cube_ids)).values(state=state.value)
        self.connection.execute(rows)
        headers = self._update(cubes).where(cubes.c.id.in_(cube_ids))
        values = {"state": _CUBE_STATES[state].value, "revision": revision, "updated_at": at}
        self.connection.execute(headers.values(**values))

    def _chosen(self, cube_ids: Sequence[str], among: Select[Any] | None = None) -> list[AdapterRecord]:
        among = self._select(adapters) if among is None else among
        found: list[AdapterRecord] = []
        for start in range(0, len(cube_ids), IN_CHUNK):
            chunk = cube_ids[start : start + IN_CHUNK]
            found += self._read(among.where(adapters.c.cube_id.in_(chunk)).order_by(adapters.c.cube_id))
        return found

    def _read(self, statement: Select[Any]) -> list[AdapterRecord]:
        rows = self.connection.execute(statement).all()
        sources = self._sources([row.cube_id for row in rows])
        return [_record(row, sources.get(row.cube_id, ())) for row in rows]


_COLUMNS = (
    "cube_id",
    "key",
    "digest",
    "base",
    "payload",
    "name",
    "version",
    "state",
    "rank",
    "bytes",
    "tokens",
    "gate",
    "provenance",
    "created_at",
)


def _record(row: Row[Any], sources: tuple[Source, ...]) -> AdapterRecord:
    values = {name: getattr(row, name) for name in (*_COLUMNS, "hits")}
    kinds = {"payload": Payload(row.payload), "state": AdapterState(row.state)}
    return AdapterRecord(**{**values, **kinds}, sources=sources)


def _row(record: AdapterRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _COLUMNS}
    return {**values, "series": record.series, "payload": record.payload.value, "state": record.state.value}


def _header(record: AdapterRecord) -> DerivedHeader:
    state = _CUBE_STATES[record.state]
    return DerivedHeader(record.cube_id, Kind.PARAMETRIC, record.created_at, record.sources, state, record.source)


def described(record: AdapterRecord) -> dict[str, Any]:
    """Return what a reader wants to know of an adapter or cartridge, as plain data."""
    names = ("payload", "name", "version", "state", "rank", "tokens", "bytes", "base", "hits", "gate", "provenance")
    values = {name: getattr(record, name) for name in names}
    return {**values, "payload": record.payload.value, "state": record.state.value}
