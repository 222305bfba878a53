"""What the rows say of adapters and cartridges: which there are, which may be served, which came before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection

from memos.clock import now_us
from memos.cube import Scope, check_name
from memos.errors import Conflict, InvalidInput, NotFound
from memos.store import namespaces
from memos.store.adapters import AdapterRecord, AdapterRepository, AdapterState, Payload
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Derived, Gone
from memos.store.exports import ExportRepository
from memos.store.once import record
from memos.store.records import Audit
from memos.store.scoped import locate


class AdapterIndex:
    """Reads the rows of adapters and cartridges, and moves between their versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, scope: Scope) -> list[AdapterRecord]:
        """Return all of a namespace, with earlier versions and failed ones, oldest first."""
        with self._database.read() as connection:
            repository = _repository(connection, scope)
            return [] if repository is None else repository.all()

    def get(self, scope: Scope, cube_id: str) -> AdapterRecord:
        """Return one. Raises :class:`NotFound`."""
        with self._database.read() as connection:
            return _one(_repository(connection, scope), cube_id)

    def chosen(self, tenant: str, cube_ids: object, user_id: str | None) -> tuple[Scope, list[str]]:
        """Return whose adapters are to be fused, each once. Raises :class:`InvalidInput` and :class:`NotFound`."""
        check_name(user_id, "user_id")
        if isinstance(cube_ids, str) or not isinstance(cube_ids, Sequence):
            raise InvalidInput("fusing needs a list of the ids of adapters")
        ids = list(dict.fromkeys(cube_ids))
        if len(ids) < 2 or not all(isinstance(cube_id, str) for cube_id in ids):
            raise InvalidInput("fusing needs the ids of two adapters at least")
        with self._database.read() as connection:
            owners = {locate(connection, tenant, cube_id, user_id) for cube_id in ids}
            if len(owners) > 1:
                raise InvalidInput("these adapters belong to different users")
            (scope,) = owners
            _siblings(_repository(connection, scope), ids)
        return scope, ids

    def siblings(self, scope: Scope, cube_ids: Sequence[str]) -> list[AdapterRecord]:
        """Return adapters that can be fused. Raises what :meth:`chosen` does, and :class:`Conflict`."""
        with self._database.read() as connection:
            return _siblings(_repository(connection, scope), cube_ids)

    def published(
        self, scope: Scope, base: str, note_ids: Sequence[str] | None, *, at: int | None = None
    ) -> list[AdapterRecord]:
        """Do what :meth:`memos.parametric.tier.ParametricTier.published` does, at a time (microseconds, or now)."""
        with self._database.read() as connection:
            repository = _repository(connection, scope)
            if repository is None:
                return []
            known = repository.published(base, note_ids)
            sources = {source for one in known for source in one.sources}
            live = repository.live(sources, scope, now_us() if at is None else at)
        return [one for one in known if live.issuperset(one.sources)]

    def named(self, scope: Scope, cube_id: str) -> AdapterRecord:
        """Do what :meth:`memos.parametric.tier.ParametricTier.named` does."""
        with self._database.read() as connection:
            repository = _repository(connection, scope)
            record = _one(repository, cube_id)
            assert repository is not None  # something was found in it
            live = repository.live(record.sources, scope, now_us()) == set(record.sources)
        if record.state is not AdapterState.PUBLISHED or not live:
            why = f"is {record.state}" if live else "was made from memories that are not all there now, as they were"
            raise Conflict(f"adapter {cube_id!r} {why}; it is not served")
        return record

    def left(self, scope: Scope, note_ids: Sequence[str]) -> list[str]:
        """Return which notes are there to be trained on, whatever their version."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return []
            notes = CubeRepository(connection, namespace.id).get(note_ids, scope)
            present = [(cube_id, notes[cube_id].version) for cube_id in note_ids if cube_id in notes]
            live = AdapterRepository(connection, namespace.id).live(present, scope, now_us())
        return [source[0] for source in present if source in live]

    def count_use(self, scope: Scope, cube_ids: Sequence[str]) -> None:
        """Count a use of each."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            AdapterRepository(connection, namespace.id).count_use(cube_ids)

    @contextmanager
    def exported(self, scope: Scope, record: AdapterRecord, folder: Path | None) -> Iterator[None]:
        """Keep on record that an adapter leaves for a folder, unless the block fails or it is of no memories."""
        if not record.sources:
            yield
            return
        sources = sorted({cube_id for cube_id, _ in record.sources})
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            export = ExportRepository(connection, namespace.id).adapter(scope, sources, folder)
        try:
            yield
        except BaseException:
            with self._database.write() as connection:
                ExportRepository(connection, namespace.id).cancel(export)
            raise

    def earlier(self, scope: Scope, cube_id: str) -> Sequence[AdapterRecord]:
        """Return what a rollback would publish. Raises :class:`NotFound` and :class:`Conflict`."""
        with self._database.read() as connection:
            return _earlier(_repository(connection, scope), cube_id)

    def roll_back(self, scope: Scope, cube_id: str) -> AdapterRecord:
        """Publish it."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository = AdapterRepository(connection, namespace.id)
            published = _go_back(repository, cube_id, namespace.revision)
            Audit(connection, namespace.id).add("rollback", published)
            record(connection, namespace.id, adapter_id=published)
            return _one(repository, published)

    def withdraw(self, scope: Scope, cube_id: str) -> Gone:
        """Delete a version, and publish again what it had taken the place of; return what has to follow."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository = AdapterRepository(connection, namespace.id)
            with suppress(Conflict, NotFound):  # it was the first or rejected, or it is forgotten already
                _go_back(repository, cube_id, namespace.revision)
            Audit(connection, namespace.id).add("withdraw", cube_id)
            return Derived(connection, namespace.id).remove([cube_id])


def _repository(connection: Connection, scope: Scope) -> AdapterRepository | None:
    namespace = namespaces.find(connection, scope)
    return None if namespace is None else AdapterRepository(connection, namespace.id)


def _one(repository: AdapterRepository | None, cube_id: str) -> AdapterRecord:
    record = None if repository is None else repository.get(cube_id)
    if record is None:
        raise NotFound(f"no adapter {cube_id!r} here; it may have been removed")
    return record


def _siblings(repository: AdapterRepository | None, cube_ids: Sequence[str]) -> list[AdapterRecord]:
    found = [_one(repository, cube_id) for cube_id in cube_ids]
    for one in found:
        if one.payload is not Payload.LORA or not one.sources:
            raise InvalidInput(f"{one.cube_id!r} is no adapter of memories: only those that were trained are fused")
        if one.state is not AdapterState.PUBLISHED:
            raise Conflict(f"adapter {one.cube_id!r} is {one.state}; only what is served is fused")
    if len({one.base for one in found}) > 1:
        raise InvalidInput("these adapters were trained for different models")
    return found


def _go_back(repository: AdapterRepository, cube_id: str, revision: int) -> str:
    """Publish what :func:`_earlier` finds; return the first of it."""
    at, earlier = now_us(), _earlier(repository, cube_id)
    if cube_id not in [one.cube_id for one in earlier]:
        repository.take_apart(_one(repository, cube_id), revision, at)
    for one in earlier:
        repository.reinstate(one, revision, at)
    return earlier[0].cube_id


def _earlier(repository: AdapterRepository | None, cube_id: str) -> list[AdapterRecord]:
    """Return the version before a published one, what a fused one was made of, or a superseded one itself."""
    record = _one(repository, cube_id)
    if record.state is AdapterState.SUPERSEDED:
        return [record]
    assert repository is not None  # something was found in it
    parts = [part for part in map(repository.get, record.parts) if part is not None]
    if record.state is AdapterState.PUBLISHED and parts:
        return parts
    before = [
        one
        for one in repository.versions(record.series)
        if one.version < record.version and one.state is AdapterState.SUPERSEDED
    ]
    if record.state is AdapterState.REJECTED or not before:
        raise Conflict(f"there is no version before {cube_id!r} to go back to")
    return before[-1:]
