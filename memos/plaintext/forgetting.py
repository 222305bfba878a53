"""Deleting memories with all that was made from them: each deletion is one transaction, and says what it removed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from memos.clock import from_us, now_us
from memos.config import OFF, Settings
from memos.cube import Scope
from memos.errors import NotFound
from memos.ids import new_id
from memos.plaintext.erasing import Erased, erase, settle_count
from memos.plaintext.writer import Discard, Submit
from memos.receipts.keys import ReceiptKeys
from memos.receipts.receipt import DeletionReceipt
from memos.store import namespaces, once
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Derived, Gone
from memos.store.exports import ExportRepository
from memos.store.holds import HoldRepository, RetentionRepository
from memos.store.jobs import JobRepository
from memos.store.kin import KinRepository
from memos.store.kv_settings import KVSettingsRepository
from memos.store.namespaces import Namespace
from memos.store.records import Audit, Idempotency, Outbox
from memos.store.traces import TraceRepository


class Forgetter:
    """Forgets what callers name, what has expired, and what was kept long enough.

    Raises :class:`LegalHold` instead where a memory, or all of its user, is held.
    """

    def __init__(
        self, database: Database, settings: Settings, keys: ReceiptKeys, discard: Discard, submit: Submit
    ) -> None:
        self._database = database
        self._settings = settings
        self._keys = keys
        self._discard = discard
        self._submit = submit

    def forget(self, scope: Scope, cube_id: str) -> DeletionReceipt:
        """Delete one memory with all that says the same or was made from it; or one derived cube."""
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            gone = Derived(connection, namespace.id).remove([cube_id])
            erased = self._derived(connection, namespace, gone) if gone else None
            if erased is None:
                kin = KinRepository(connection, namespace.id)
                erased = self._erase(connection, namespace, kin.along(kin.duplicates([cube_id])))
                if not erased.removed["cubes"]:
                    raise NotFound(f"no memory {cube_id!r} here; it may have been forgotten")
            receipt = self._receipt(connection, namespace, erased, "forget", cube_id)
            once.record(connection, namespace.id, receipt=receipt.model_dump(mode="json"))
        return receipt.model_copy(update={"pending": self._follow(scope, erased)})

    def forget_all(self, scope: Scope) -> DeletionReceipt:
        """Delete every memory of the namespace, of one agent or run if the scope names one."""
        whole = scope.agent_id is None and scope.run_id is None
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            ids = CubeRepository(connection, namespace.id).ids(scope)
            erased = (
                self._clear(connection, namespace, ids)
                if whole
                else self._erase(connection, namespace, KinRepository(connection, namespace.id).along(ids))
            )
            receipt = self._receipt(connection, namespace, erased, "forget_all", count=erased.removed["cubes"])
            once.record(connection, namespace.id, receipt=receipt.model_dump(mode="json"))
        return receipt.model_copy(update={"pending": self._follow(scope, erased)})

    def expire(self, scope: Scope, now: int, limit: int) -> dict[str, int]:
        """Delete up to ``limit`` memories that expired by ``now`` (microseconds), and as many that were kept too long.

        What is held stays. What they stand for comes back. Returns how many went for which reason.
        """
        counts = {}
        for reason in ("expire", "retain"):
            with self._database.write() as connection:
                namespace = namespaces.open_for_write(connection, scope)
                retention = RetentionRepository(connection, namespace.id)
                ids = (retention.expired if reason == "expire" else retention.outdated)(now, limit)
                counts[reason] = len(ids)
                if not ids:
                    continue
                held = HoldRepository(connection, namespace.id).held()
                along = [one for one in KinRepository(connection, namespace.id).along(ids) if one not in held]
                erased = self._erase(connection, namespace, along)
                self._receipt(connection, namespace, erased, reason, count=erased.removed["cubes"])
            self._follow(scope, erased)
        return counts

    # ------------------------------------------------------------ inside

    def _erase(self, connection: Connection, namespace: Namespace, ids: Sequence[str]) -> Erased:
        return erase(connection, namespace, ids, notes=self._settings.notes != OFF)

    def _clear(self, connection: Connection, namespace: Namespace, ids: Sequence[str]) -> Erased:
        """Delete everything that a namespace has."""
        HoldRepository(connection, namespace.id).check(ids)
        traces = TraceRepository(connection, namespace.id)
        digests, exports = traces.digests(ids), ExportRepository(connection, namespace.id).holding(traces.stored(ids))
        gone = Derived(connection, namespace.id).remove_all()
        removed = CubeRepository(connection, namespace.id).delete(ids)
        jobs = JobRepository(connection, namespace.id)
        under_way = jobs.leased_since(now_us()) > 0
        removed["jobs"] = jobs.clear()
        removed["requests"] = Idempotency(connection, namespace.id).clear()
        KVSettingsRepository(connection, namespace.id).clear()
        Outbox(connection, namespace.id).add(namespace.revision, [], clear=True)
        settle_count(connection, namespace, removed["cubes"])
        return Erased(tuple(ids), gone, removed, frozenset(digests), tuple(exports), under_way=under_way)

    def _derived(self, connection: Connection, namespace: Namespace, gone: Gone) -> Erased:
        """Return that cubes of higher tiers were deleted; the memories stay, and no hold is about these."""
        removed = CubeRepository(connection, namespace.id).delete([])
        removed["jobs"], _ = JobRepository(connection, namespace.id).forget(gone.cube_ids)
        Outbox(connection, namespace.id).add(namespace.revision, gone.cube_ids)
        settle_count(connection, namespace, removed["cubes"])
        return Erased((), gone, removed)

    def _receipt(
        self,
        connection: Connection,
        namespace: Namespace,
        erased: Erased,
        action: str,
        cube_id: str | None = None,
        **detail: int,
    ) -> DeletionReceipt:
        """Return the receipt of a deletion, and put it on record without what it was about."""
        key, gone = self._keys.of(namespace.tenant), erased.gone
        receipt = DeletionReceipt(
            id=new_id(),
            tenant=namespace.tenant,
            user_id=namespace.user_id,
            cube_ids=erased.ids or gone.cube_ids,
            derived=gone.cube_ids if erased.ids else (),
            digests=tuple(sorted(map(key.digest, erased.digests))),
            removed={**erased.removed, **gone.counts},
            files=(*(f"kv/{one}" for one in gone.kv_keys), *(f"adapters/{one}" for one in gone.adapter_keys)),
            exports=erased.exports,
            deleted_at=from_us(now_us()),
        )
        Audit(connection, namespace.id).add(action, cube_id, receipt=receipt.id, **detail)
        return receipt

    def _follow(self, scope: Scope, erased: Erased) -> tuple[str, ...]:
        """Do what comes after the transaction; return the places that could not be reached."""
        if erased.job is not None:
            self._submit(scope.whole, erased.job)
        return (*self._discard(scope, erased.gone), *(["jobs"] if erased.under_way else ()))
