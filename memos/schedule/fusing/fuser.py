"""Plans fusions, carries them out, and takes them back.

plan -> carry out: a job for each cluster -> tell what it says -> one transaction: the memory that says it is there with
its lineage and links, its sources are put away, and the move is on record; or none of it is
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection

from memos.clock import now_us
from memos.config import OFF, Settings
from memos.cube import FUSION, Kind, LinkType, MemCube, NewMemory, Scope, State, move
from memos.embedding.base import Embedder
from memos.embedding.serving import ServingEmbedder, active, register
from memos.errors import Conflict
from memos.ids import new_id
from memos.llm.completion import Completer
from memos.plaintext.analysis import terms
from memos.plaintext.chosen import check_present
from memos.plaintext.erasing import erase
from memos.plaintext.notes.offline import construct
from memos.schedule.fusing.clusters import Candidate, Cluster, Known, clusters, compatible
from memos.schedule.fusing.telling import Told, happened, tell
from memos.schedule.heat import Cooling
from memos.schedule.moving.move import Action, Move
from memos.schedule.task import Report
from memos.store import namespaces
from memos.store.cube_rows import Note
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Derived, Gone
from memos.store.fusions import Fused, FusionRepository
from memos.store.jobs import FUSE, JobRepository
from memos.store.links import LinkRepository, inherited
from memos.store.mixture import note_text
from memos.store.moves import MoveRepository
from memos.store.namespaces import Namespace
from memos.store.quota import check_jobs, check_memories

#: Memories of one user that a plan looks at: the hottest, then the latest.
MOST_NOTES = 2_000
#: How often a fusion begins anew because its memories changed meanwhile.
ATTEMPTS = 3
#: Links that say no more than that two memories follow each other.
_IDLE = frozenset({LinkType.SAME_SESSION.value, LinkType.TEMPORAL.value, LinkType.CONTRADICTS.value})


@dataclass(frozen=True, slots=True)
class Written:
    """A fusion that is committed, and what has to follow."""

    cube_id: str
    gone: Gone


@dataclass(frozen=True, slots=True)
class Afterwards:
    """What follows a transaction: derived cubes end wherever they are, jobs begin, indexes follow."""

    discard: Callable[[Scope, Gone], object]
    submit: Callable[[Scope, str], None]
    submit_notes: Callable[[Scope, str], None]
    wake: Callable[[], None]


class Fuser:
    """Fuses memories of one engine."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        embedder: ServingEmbedder,
        model: Completer | None,
        after: Afterwards,
    ) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._model = model
        self._after = after
        self._cooling = Cooling.days(settings.heat_half_life_days)

    # ------------------------------------------------------------ plans

    def plan(self, scope: Scope) -> list[Move]:
        """Return which memories would be fused now, and why."""
        found = self._embedder.steady(partial(self._clusters, scope))
        return [self._move(cluster) for cluster in found]

    def carry_out(self, scope: Scope, moves: Sequence[Move]) -> list[Move]:
        """Queue a job for each fusion, all or none; return them with the ids they are on record under once made."""
        if not moves:
            return []
        queued = []
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            jobs = JobRepository(connection, namespace.id)
            for one in moves:
                check_jobs(self._settings, jobs.unfinished())
                move_id = new_id()
                ids = [source.cube_id for source in one.sources]
                check_present(connection, namespace.id, ids)
                told = {"move": move_id, "reason": one.reason, "undoes": one.undoes}
                job_id = jobs.add(FUSE, {"ids": ids, **told})
                queued.append(one.model_copy(update={"id": move_id, "job_id": job_id, "created_at": None}))
        for one in queued:
            self._after.submit(scope.whole, str(one.job_id))
        return queued

    def run(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """The task ``fuse``: make one memory of ``payload["ids"]``, as far as these may still be fused.

        What changes meanwhile is looked at again. A second run finds its memories put away, and makes nothing.
        """
        for _ in range(ATTEMPTS):
            cluster = self._embedder.steady(partial(self._left, scope, payload["ids"]))
            if cluster is None:
                break
            report(0.2)
            written = self._embedder.steady(partial(self._fuse, scope, cluster, payload, report))
            if written is not None:
                self._after.discard(scope, written.gone)
                self._after.wake()
                return {"cube_id": written.cube_id, "made": True, "sources": len(cluster.candidates)}
        return {"cube_id": None, "made": False, "sources": 0}

    def split(self, scope: Scope, fusion: Move) -> Move:
        """Bring back the sources of a fused memory and delete it; return the move that is on record now.

        Raises :class:`Conflict` if it is gone, and :class:`LegalHold` while it is held.
        """
        undone = fusion.model_copy(
            update={
                "action": Action.SPLIT,
                "undoes": fusion.id,
                "reason": f"takes back: {fusion.reason}",
                "id": new_id(),
                "job_id": None,
                "created_at": None,
            }
        )
        cube_id = str(fusion.cube_id)
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            if cube_id not in FusionRepository(connection, namespace.id).of([cube_id]):
                raise Conflict(f"what move {fusion.id!r} made is gone: one of its sources was changed or forgotten")
            erased = erase(connection, namespace, [cube_id], notes=self._settings.notes != OFF, again=False)
            MoveRepository(connection, namespace.id).add(undone.model_dump(mode="json", exclude={"created_at"}))
        self._after.discard(scope, erased.gone)
        if erased.job is not None:
            self._after.submit_notes(scope.whole, erased.job)
        self._after.wake()
        return undone

    # ------------------------------------------------------------ reading

    def _clusters(self, scope: Scope, embedder: Embedder) -> list[Cluster]:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return []
            fusions = FusionRepository(connection, namespace.id)
            busy = MoveRepository(connection, namespace.id).under_way()
            loose = fusions.loose(MOST_NOTES, waiting=self._settings.notes == OFF)
            ids = [cube_id for cube_id in loose if cube_id not in busy]
            found = self._candidates(connection, namespace, scope, ids, embedder)
            known = _known(connection, namespace, ids)
        return list(clusters(found, known))

    def _left(self, scope: Scope, cube_ids: Sequence[str], embedder: Embedder) -> Cluster | None:
        """Return what is left to be fused of some memories."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return None
            loose = FusionRepository(connection, namespace.id).still_loose(cube_ids)
            ids = [cube_id for cube_id in cube_ids if cube_id in loose]
            found = self._candidates(connection, namespace, scope, ids, embedder)
            return compatible(found, _known(connection, namespace, ids))

    def _candidates(
        self, connection: Connection, namespace: Namespace, scope: Scope, ids: Sequence[str], embedder: Embedder
    ) -> list[Candidate]:
        row = active(connection, embedder)
        if row is None:
            return []
        now, repository = now_us(), CubeRepository(connection, namespace.id)
        cubes = repository.get(ids, scope)
        vectors = repository.vectors([(cube.id, cube.version) for cube in cubes.values()], row.id)
        known = [cubes[cube_id] for cube_id in ids if cube_id in cubes and cube_id in vectors]
        return [Candidate(cube, vectors[cube.id], self._cooling.by_now(cube.behaviour, now)) for cube in known]

    # ------------------------------------------------------------ writing

    def _fuse(
        self, scope: Scope, cluster: Cluster, payload: Mapping[str, Any], report: Report, embedder: Embedder
    ) -> Written | None:
        cubes = [one.cube for one in cluster.candidates]
        told = tell(cubes, embedder.embed, self._model)
        fused = self._fused(cluster, told, embedder)
        report(0.9)
        made = self._move(cluster).model_copy(
            update={
                "id": payload.get("move") or new_id(),
                "cube_id": fused.note.id,
                "bytes": len(told.text.encode()),
                "reason": f"{payload['reason']}; {len(told.text)} once fused",
                "undoes": payload.get("undoes"),
            }
        )
        with self._database.write() as connection:
            row = register(connection, embedder)
            namespace = namespaces.open_for_write(connection, scope)
            if not self._unchanged(connection, namespace, scope, cubes):
                return None
            check_memories(self._settings, namespace.memories, 1)
            return self._write(connection, namespace, fused, cubes, row.id, made)

    def _write(
        self,
        connection: Connection,
        namespace: Namespace,
        fused: Fused,
        cubes: Sequence[MemCube],
        embedder_id: int,
        made: Move,
    ) -> Written:
        cube_id, ids, at = fused.note.id, [cube.id for cube in cubes], fused.note.created_at
        FusionRepository(connection, namespace.id).add(fused, namespace.revision, embedder_id)
        links = LinkRepository(connection, namespace.id)
        links.add(inherited(links.touching(ids), ids, (cube_id, 1), at))
        repository = CubeRepository(connection, namespace.id)
        for cube in cubes:
            repository.set_state(cube.id, move(cube.state, State.ARCHIVED), namespace.revision, at)
        gone = Derived(connection, namespace.id).invalidate(ids)
        namespaces.count_memories(connection, namespace.id, 1)
        MoveRepository(connection, namespace.id).add(made.model_dump(mode="json", exclude={"created_at"}))
        return Written(cube_id, gone)

    def _unchanged(self, connection: Connection, namespace: Namespace, scope: Scope, cubes: Sequence[MemCube]) -> bool:
        """Whether memories are still as they were read, and may still be fused."""
        ids = [cube.id for cube in cubes]
        present = CubeRepository(connection, namespace.id).get(ids, scope)
        same = all(cube.id in present and present[cube.id].version == cube.version for cube in cubes)
        return same and FusionRepository(connection, namespace.id).still_loose(ids) == set(ids)

    def _fused(self, cluster: Cluster, told: Told, embedder: Embedder) -> Fused:
        cubes, at = [one.cube for one in cluster.candidates], now_us()
        first, latest = cubes[0], max(map(happened, cubes))
        known = [cube for cube in cubes if cube.time.event_time is not None]
        attributes = construct(told.text, first.provenance.author, latest)
        vector, enriched = embedder.embed([told.text, note_text(told.text, attributes.descriptor)])
        memory = NewMemory(
            text=told.text,
            metadata=first.metadata,
            event_time=latest if known else None,
            agent_id=first.scope.agent_id,
            run_id=first.scope.run_id,
            infer=False,
            source=FUSION,
        )
        digest = hashlib.sha256(told.text.encode()).hexdigest()
        stems = " ".join(terms(told.text))
        used = any(cube.behaviour.last_recalled_at is not None for cube in cubes)
        return Fused(
            note=Note(new_id(), memory, first.provenance.author, digest, stems, vector, at, at),
            descriptor=attributes.descriptor,
            enriched=enriched,
            sources=tuple((cube.id, cube.version) for cube in cubes),
            scribe=told.scribe,
            remark=told.remark,
            sensitivity=first.governance.sensitivity,
            acl=first.governance.acl,
            heat=cluster.heat,
            used_at=at if used else None,
        )

    def _move(self, cluster: Cluster) -> Move:
        count, length = len(cluster.candidates), sum(map(len, cluster.texts))
        why = "that say nearly the same" if cluster.repeats else "that are used together and linked"
        return Move(
            action=Action.FUSE,
            tier=Kind.PLAINTEXT,
            sources=cluster.sources,
            uses=self._cooling.uses(cluster.heat, self._cooling.half_life_us / 1e6),
            seconds_saved=0.0,
            bytes=sum(len(text.encode()) for text in cluster.texts),
            reason=f"{count} memories {why}, {length} characters",
        )


def _known(connection: Connection, namespace: Namespace, ids: Sequence[str]) -> Known:
    links = LinkRepository(connection, namespace.id).touching(ids)
    pairs = [(frozenset((link.source_id, link.target_id)), link.type) for link in links]
    return Known(
        frozenset(pair for pair, kind in pairs if kind not in _IDLE),
        frozenset(pair for pair, kind in pairs if kind == LinkType.CONTRADICTS.value),
    )
