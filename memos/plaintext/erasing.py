"""Deleting memories within a transaction: every trace of them in what stays, and what has to be written anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from memos.clock import now_us
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.derived import Derived, Gone
from memos.store.exports import ExportRecord, ExportRepository
from memos.store.fusions import FusionRepository
from memos.store.holds import HoldRepository
from memos.store.jobs import FUSE, NOTES, JobRepository
from memos.store.kin import KinRepository
from memos.store.namespaces import Namespace
from memos.store.notes import NoteRepository
from memos.store.records import OUTBOX_KEEP, Audit, Idempotency, Outbox
from memos.store.traces import TraceRepository


@dataclass(frozen=True, slots=True)
class Erased:
    """What a transaction deleted.

    ``job`` writes notes anew that had help from it; ``under_way`` says that a job runs which may have read it.
    """

    ids: tuple[str, ...]
    gone: Gone
    removed: dict[str, int]
    digests: frozenset[str] = frozenset()
    exports: tuple[ExportRecord, ...] = ()
    job: str | None = None
    under_way: bool = False


def erase(
    connection: Connection, namespace: Namespace, ids: Sequence[str], *, notes: bool, again: bool = True
) -> Erased:
    """Delete memories, and every trace of them in what stays. Raises :class:`LegalHold` where one is held.

    What they stand for comes back. Where that is several sources of a fused memory, a job fuses these ``again``;
    ``notes`` says whether notes are written here.
    """
    HoldRepository(connection, namespace.id).check(ids)
    traces, at = TraceRepository(connection, namespace.id), now_us()
    digests, exports = traces.digests(ids), ExportRepository(connection, namespace.id).holding(traces.stored(ids))
    fused = FusionRepository(connection, namespace.id).of(ids) if again else {}
    back = KinRepository(connection, namespace.id).revive(ids, namespace.revision, at)
    derived = Derived(connection, namespace.id)
    affected = NoteRepository(connection, namespace.id).unlearn(ids, namespace.revision, at)
    gone = derived.invalidate(ids) + derived.invalidate(affected, changed=True)
    removed = CubeRepository(connection, namespace.id).delete(ids)
    removed["notes"] = len(affected)
    jobs = JobRepository(connection, namespace.id)
    removed["jobs"], under_way = jobs.forget([*ids, *gone.cube_ids])
    removed["requests"] = Idempotency(connection, namespace.id).bury(ids)
    Outbox(connection, namespace.id).add(namespace.revision, ids)
    settle_count(connection, namespace, removed["cubes"])
    job = jobs.ensure(NOTES) if notes and (affected or back) else None
    gone = replace(gone, jobs=(*gone.jobs, *_fused_again(jobs, fused, ids)))
    return Erased(tuple(ids), gone, removed, frozenset(digests), tuple(exports), job, under_way)


def dissolve(connection: Connection, namespace: Namespace, source_id: str, *, notes: bool) -> Erased:
    """Take back what was fused from a memory that is about to change: its sources say for themselves what they say.

    Raises :class:`LegalHold` where the fused memory is held.
    """
    fused = FusionRepository(connection, namespace.id).over(source_id)
    if not fused:
        return Erased((), Gone(), {})
    Audit(connection, namespace.id).add("dissolve", source_id, fused=len(fused))
    return erase(connection, namespace, fused, notes=notes)


def settle_count(connection: Connection, namespace: Namespace, removed: int) -> None:
    """Count that memories are gone, and drop deletion records that every index has followed."""
    namespaces.count_memories(connection, namespace.id, -removed)
    until = namespace.revision - OUTBOX_KEEP
    if namespace.collection is not None:
        until = min(until, namespace.indexed_revision)
    if until > namespace.floor_revision:  # and that no recent view still needs
        Outbox(connection, namespace.id).trim(until)
        namespaces.raise_floor(connection, namespace.id, until)


def _fused_again(jobs: JobRepository, fused: dict[str, list[str]], gone: Sequence[str]) -> list[str]:
    """Queue the fusion of what is left of the sources of fused memories, where that is several."""
    left = [[one for one in sources if one not in gone] for sources in fused.values()]
    reason = "fused again, since a memory that was among them changed or was forgotten"
    return [jobs.add(FUSE, {"ids": sources, "reason": reason}) for sources in left if len(sources) > 1]
