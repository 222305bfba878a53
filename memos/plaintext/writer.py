"""Writing memories: each operation is one transaction that either happens whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memos.clock import HOUR_US, now_us, to_us
from memos.config import OFF, Settings
from memos.cube import FUSION, RECALLABLE, MemCube, NewMemory, Scope, State, move
from memos.embedding.base import Embedder
from memos.embedding.reindex import BATCH, Progress
from memos.embedding.serving import ServingEmbedder, register
from memos.errors import Conflict, InvalidInput, NotFound, VersionConflict
from memos.ids import new_id
from memos.plaintext.analysis import terms
from memos.plaintext.chosen import check_present
from memos.plaintext.erasing import dissolve
from memos.plaintext.intake import check_metadata, check_text, speaker_of
from memos.store import namespaces, once
from memos.store.cube_rows import Note, cube_from_note
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Derived, Gone
from memos.store.fusions import FusionRepository
from memos.store.jobs import NOTES, JobRepository
from memos.store.namespaces import Namespace
from memos.store.notes import NoteRepository
from memos.store.quota import check_characters, check_memories
from memos.store.records import Audit, Idempotency, request_digest
from memos.store.scoped import locate

#: Submits a job that is queued already.
Submit = Callable[[Scope, str], None]
#: Carries the end of derived cubes to every place outside SQL; returns the names of places that keep something yet.
Discard = Callable[[Scope, Gone], tuple[str, ...]]


class NoteWriter:
    """Store, update and move plaintext memories.

    What was derived from a note, or fused from it, dies in the transaction that changes it; ``discard`` then does the
    rest.
    Notes are written later: a job that is queued with the memory and handed to ``submit`` sees to it.
    """

    def __init__(
        self,
        database: Database,
        embedder: ServingEmbedder,
        settings: Settings,
        discard: Discard,
        submit: Submit,
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._settings = settings
        self._discard = discard
        self._submit = submit

    def store(
        self,
        scope: Scope,
        memories: Sequence[NewMemory],
        key: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[MemCube]:
        """Write all memories or none; under an idempotency key used before, return what it made then.

        ``progress`` is told how many were embedded, batch by batch; the write after it is short.
        """
        digest = request_digest(key, [memory.model_dump(mode="json") for memory in memories]) if key else ""
        if key and (earlier := self._replay(scope, key, digest)) is not None:
            return earlier
        return self._embedder.steady(
            lambda embedder: self._store(scope, _prepare(memories, embedder, progress), key, digest, embedder)
        )

    def _store(
        self,
        scope: Scope,
        notes: list[Note],
        key: str | None,
        digest: str,
        embedder: Embedder,
    ) -> list[MemCube]:
        ids = [note.id for note in notes]
        with self._database.write() as connection:
            row = register(connection, embedder)
            namespace = namespaces.open_for_write(connection, scope)
            if key:
                keys = Idempotency(connection, namespace.id)
                made = keys.replay(key, digest)  # again, now that other writers of the namespace wait
                if made is not None:
                    return _reread(connection, namespace, scope, made)
                ends = now_us() + self._settings.idempotency_hours * HOUR_US
                keys.remember(key, digest, ends, cube_ids=ids)
            repository = CubeRepository(connection, namespace.id)
            check_memories(self._settings, namespace.memories, len(notes))
            self._check_characters(repository, sum(len(note.memory.text) for note in notes))
            repository.insert(notes, namespace.revision, row.id)
            namespaces.count_memories(connection, namespace.id, len(notes))
            Audit(connection, namespace.id).add("store", ids[0] if len(ids) == 1 else None, count=len(ids))
            job = self._note_job(connection, namespace, wanted=any(note.memory.infer for note in notes))
            once.record(connection, namespace.id)
        self._begin(scope, job)
        return [cube_from_note(note, scope) for note in notes]

    def update(
        self,
        scope: Scope,
        cube_id: str,
        text: str | None,
        metadata: dict[str, Any] | None,
        expected_version: int | None,
    ) -> MemCube:
        """Write a new version with another text or metadata (which replaces the old whole)."""
        before = self._read(scope, cube_id)
        _check_version(before, expected_version)
        memory = self._revised(before, text, metadata)
        return self._embedder.steady(lambda embedder: self._update(scope, before, memory, embedder))

    def _update(self, scope: Scope, before: MemCube, memory: NewMemory, embedder: Embedder) -> MemCube:
        cube_id = before.id
        note = _prepare([memory], embedder)[0]
        with self._database.write() as connection:
            row = register(connection, embedder)
            namespace = namespaces.open_for_write(connection, scope)
            repository = CubeRepository(connection, namespace.id)
            freed = dissolve(connection, namespace, cube_id, notes=self._takes_notes)
            present = _one(repository, cube_id, scope)
            # Text or metadata not given were taken from `before`: another writer must not have changed them since.
            _check_version(present, before.version)
            _check_own(connection, namespace, present)
            self._check_characters(repository, len(note.memory.text) - len(present.text or ""))
            note = replace(note, valid_from=note.created_at)  # an update holds from now on, whenever it first happened
            repository.add_version(present, note, namespace.revision, row.id, "update")
            gone = Derived(connection, namespace.id).invalidate([cube_id], changed=True)
            Audit(connection, namespace.id).add("update", cube_id, version=present.version + 1, **gone.counts)
            updated = _one(repository, cube_id, scope)
            once.record(connection, namespace.id, cube_id=cube_id)
            job = self._note_job(connection, namespace, wanted=present.provenance.infer)
        self._discard(scope, freed.gone + gone)
        self._begin(scope, job or freed.job)
        return updated

    def roll_back(self, scope: Scope, cube_id: str, version: int) -> MemCube:
        """Write a new version that says what an earlier one said: text, metadata and note."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository, notes = CubeRepository(connection, namespace.id), NoteRepository(connection, namespace.id)
            freed = dissolve(connection, namespace, cube_id, notes=self._takes_notes)
            present = _one(repository, cube_id, scope)
            earlier = notes.version(cube_id, version)
            if earlier is None or version == present.version:
                raise InvalidInput(f"memory {cube_id!r} is at version {present.version}; it has no earlier {version}")
            self._check_characters(repository, len(earlier.text) - len(present.text or ""))
            notes.roll_back(cube_id, version, namespace.revision, now_us())
            after = _one(repository, cube_id, scope)
            changed = (after.digest, after.time.event_time) != (present.digest, present.time.event_time)
            gone = Derived(connection, namespace.id).invalidate([cube_id], changed=True) if changed else Gone()
            Audit(connection, namespace.id).add("rollback", cube_id, version=after.version, to=version)
            once.record(connection, namespace.id, cube_id=cube_id)
        self._discard(scope, freed.gone + gone)
        self._begin(scope, freed.job)
        return after

    def refine(self, scope: Scope, cube_ids: Sequence[str] | None) -> str:
        """Queue a job that writes notes again: of these memories, or of all where a model's answer was of no use.

        It also writes the notes that wait. Returns its id.
        """
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            ids = NoteRepository(connection, namespace.id).fallen_back() if cube_ids is None else list(cube_ids)
            check_present(connection, namespace.id, ids)
            job = JobRepository(connection, namespace.id).add(NOTES, {"ids": ids})
            once.record(connection, namespace.id, job_id=job)
        self._submit(scope, job)
        return job

    def move(self, scope: Scope, cube_id: str, target: State) -> MemCube:
        """Move a cube to another state, if the table of legal moves allows it."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            repository = CubeRepository(connection, namespace.id)
            hides = target not in RECALLABLE | {State.ARCHIVED}
            freed = dissolve(connection, namespace, cube_id, notes=self._takes_notes) if hides else None
            cube = _one(repository, cube_id, scope)
            repository.set_state(cube_id, move(cube.state, target), namespace.revision, now_us())
            derived = Derived(connection, namespace.id)
            gone = Gone() if target in RECALLABLE else derived.invalidate([cube_id])
            Audit(connection, namespace.id).add("move", cube_id, source=cube.state, target=target)
            moved = _one(repository, cube_id, scope)
        if freed is not None:  # what must not be recalled must not be so in other words
            gone += freed.gone
            self._begin(scope, freed.job)
        self._discard(scope, gone)
        return moved

    # ------------------------------------------------------------ inside

    @property
    def _takes_notes(self) -> bool:
        return self._settings.notes != OFF

    def _check_characters(self, repository: CubeRepository, more: int) -> None:
        if self._settings.quota_characters and more > 0:
            check_characters(self._settings, repository.characters(), more)

    def _note_job(self, connection: Connection, namespace: Namespace, *, wanted: bool) -> str | None:
        if not wanted or not self._takes_notes:
            return None
        return JobRepository(connection, namespace.id).ensure(NOTES)

    def _begin(self, scope: Scope, job: str | None) -> None:
        if job is not None:
            self._submit(scope.whole, job)

    def _revised(self, before: MemCube, text: str | None, metadata: dict[str, Any] | None) -> NewMemory:
        if text is None and metadata is None:
            raise InvalidInput("update needs a text, metadata or both")
        return NewMemory(
            text=before.text or "" if text is None else check_text(text, self._settings.max_text_bytes),
            metadata=before.metadata
            if metadata is None
            else check_metadata(metadata, self._settings.max_metadata_bytes),
            event_time=before.time.event_time,
        )

    def _replay(self, scope: Scope, key: str, digest: str) -> list[MemCube] | None:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return None
            made = Idempotency(connection, namespace.id).replay(key, digest)
            return None if made is None else _reread(connection, namespace, scope, made)

    def _read(self, scope: Scope, cube_id: str) -> MemCube:
        with self._database.read() as connection:
            locate(connection, scope.tenant, cube_id, scope.user_id)
            namespace = namespaces.find(connection, scope)
            assert namespace is not None  # locate found the cube in it, in this snapshot
            return _one(CubeRepository(connection, namespace.id), cube_id, scope)


def embed_in_batches(embedder: Embedder, texts: Sequence[str], progress: Progress | None) -> NDArray[np.float32]:
    """Return unit vectors, float32 ``[len(texts), dimension]``; with ``progress``, report after every batch."""
    if progress is None:
        return embedder.embed(texts)
    vectors = np.empty((len(texts), embedder.dimension), np.float32)
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        vectors[part] = embedder.embed(texts[part])
        progress(min(start + BATCH, len(texts)), len(texts))
    return vectors


def _prepare(memories: Sequence[NewMemory], embedder: Embedder, progress: Progress | None = None) -> list[Note]:
    """Embed and analyse before the transaction, so that no lock is held meanwhile."""
    vectors = embed_in_batches(embedder, [memory.text for memory in memories], progress)
    return [_note(memory, vector) for memory, vector in zip(memories, vectors, strict=True)]


def _note(memory: NewMemory, vector: Any) -> Note:
    created = now_us()
    return Note(
        id=new_id(),
        memory=memory,
        author=speaker_of(memory.text, memory.metadata),
        digest=hashlib.sha256(memory.text.encode()).hexdigest(),
        terms=" ".join(terms(memory.text)),
        vector=vector,
        created_at=created,
        valid_from=to_us(memory.event_time) if memory.event_time else created,
    )


def _one(repository: CubeRepository, cube_id: str, scope: Scope) -> MemCube:
    cube = repository.get([cube_id], scope).get(cube_id)
    if cube is None:
        raise NotFound(f"no memory {cube_id!r} here; it may have been forgotten")
    return cube


def _check_own(connection: Connection, namespace: Namespace, cube: MemCube) -> None:
    """Raise :class:`Conflict` for what was fused: what is said there is said by its sources."""
    if cube.provenance.source == FUSION and FusionRepository(connection, namespace.id).of([cube.id]):
        raise Conflict(f"memory {cube.id!r} was fused from others: change one of these, or take the fusion back first")


def _reread(connection: Connection, namespace: Namespace, scope: Scope, ids: Sequence[str]) -> list[MemCube]:
    present = CubeRepository(connection, namespace.id).get(ids, scope)
    gone = [cube_id for cube_id in ids if cube_id not in present]
    if gone:
        raise NotFound(f"the memory made under this idempotency key, {gone[0]!r}, was forgotten since")
    return [present[cube_id] for cube_id in ids]


def _check_version(cube: MemCube, expected: int | None) -> None:
    if expected is not None and expected != cube.version:
        raise VersionConflict(
            f"memory {cube.id!r} is at version {cube.version}, not {expected}; read it again and repeat the change",
            current_version=cube.version,
        )
