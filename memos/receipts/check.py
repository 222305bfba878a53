"""Holding a receipt against the system as it is now: signature, tables, contents, files, vectors, what was pending."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection

from memos.clock import to_us
from memos.cube import Frozen, Scope
from memos.errors import StoreUnavailable
from memos.parametric.distil.folder import has_trainings
from memos.receipts.keys import ReceiptKey
from memos.receipts.receipt import DeletionReceipt, signed_bytes
from memos.store import namespaces
from memos.store.database import Database
from memos.store.jobs import JobRepository
from memos.store.namespaces import Namespace
from memos.store.scoped import taken
from memos.store.traces import TraceRepository
from memos.store.vector_index import VectorIndex

#: Memories that are named in a finding.
_NAMED = 3


class Check(Frozen):
    """One thing that was looked at: how many ids, digests, files were, and what came of it."""

    name: str
    passed: bool
    checked: int
    finding: str


class ReceiptCheck(Frozen):
    """Whether a receipt is genuine and what it says is still so: ``valid`` if every check passed."""

    receipt_id: str
    valid: bool
    checks: tuple[Check, ...]


class ReceiptChecker:
    """Checks receipts of one installation; ``files`` tells for each place whether the file of a key is there."""

    def __init__(
        self, database: Database, index: VectorIndex, files: Mapping[str, Callable[[str], bool]], home: Path
    ) -> None:
        self._database = database
        self._index = index
        self._files = files
        self._home = home

    def check(self, receipt: DeletionReceipt, key: ReceiptKey) -> ReceiptCheck:
        """Check the signature first; nothing is looked up for a receipt that nobody signed."""
        checks = [_signature(receipt, key)]
        if checks[0].passed:
            checks += self._live(receipt, key)
        return ReceiptCheck(receipt_id=receipt.id, valid=all(check.passed for check in checks), checks=tuple(checks))

    def _live(self, receipt: DeletionReceipt, key: ReceiptKey) -> Iterator[Check]:
        ids = [*receipt.cube_ids, *receipt.derived]
        with self._database.read() as connection:
            namespace = namespaces.find(connection, _scope(receipt))
            if namespace is None:
                yield _made("tables", True, len(ids), "", "nothing was ever stored for this user")
                return
            left = _left(connection, namespace, ids)
            again = _said_again(receipt, key, TraceRepository(connection, namespace.id))
        yield _made("tables", not left, len(ids), f"found {', '.join(left)}", "no table names one of the ids")
        yield _made("contents", not again, len(receipt.digests), _named(again), "no version of a memory says the same")
        yield (files := self._no_files(receipt.files))
        yield (vectors := self._no_vectors(namespace, ids))
        done = self._done(receipt, namespace) if receipt.pending else {}
        done |= {"kv_files": files.passed, "adapter_files": files.passed, "vector_index": vectors.passed}
        for place in receipt.pending:
            yield _made(place, done[place], 1, "was pending and still is", "was pending and is done")

    def _done(self, receipt: DeletionReceipt, namespace: Namespace) -> dict[str, bool]:
        """Return whether what may have been pending beside files and vectors is done by now."""
        since = receipt.deleted_at
        trained = has_trainings(self._home, _scope(receipt), since.timestamp())
        with self._database.read() as connection:
            running = JobRepository(connection, namespace.id).leased_since(to_us(since))
        emptied = self._database.scrub()
        return {"trainings": not trained, "jobs": not (running or trained), "write_ahead_log": emptied}

    def _no_files(self, files: Sequence[str]) -> Check:
        there = [name for name in files if self._is_there(*name.split("/", 1))]
        return _made("files", not there, len(files), f"there: {', '.join(there)}", "no file of these keys is there")

    def _is_there(self, place: str, key: str) -> bool:
        return self._files[place](key)

    def _no_vectors(self, namespace: Namespace, ids: Sequence[str]) -> Check:
        if namespace.collection is None:
            return Check(name="vectors", passed=True, checked=0, finding="this user has no collection in the index")
        try:
            left = self._index.present(namespace.collection, ids)
        except StoreUnavailable as error:
            return Check(name="vectors", passed=False, checked=0, finding=f"not looked up: {error.message}")
        return _made("vectors", not left, len(ids), f"{len(left)} are in the index", "none is in the index")


def _signature(receipt: DeletionReceipt, key: ReceiptKey) -> Check:
    if receipt.key != key.public:
        finding = "signed by another installation, or before its key was changed"
        return Check(name="signature", passed=False, checked=1, finding=finding)
    good = key.signed(signed_bytes(receipt), receipt.signature)
    return _made("signature", good, 1, "the receipt was changed after it was signed", "genuine and unchanged")


def _scope(receipt: DeletionReceipt) -> Scope:
    return Scope(tenant=receipt.tenant, user_id=receipt.user_id)


def _left(connection: Connection, namespace: Namespace, ids: Sequence[str]) -> list[str]:
    """Return what tables still say of some cubes, in words."""
    left = TraceRepository(connection, namespace.id).left(ids)
    found = [f"{count} rows of {table}" for table, count in left.items()]
    elsewhere = len(taken(connection, ids, namespace.id))
    return [*found, f"{elsewhere} cubes of others"] if elsewhere else found


def _named(cube_ids: Sequence[str]) -> str:
    more = f" and {len(cube_ids) - _NAMED} more" if len(cube_ids) > _NAMED else ""
    return f"said by {', '.join(cube_ids[:_NAMED])}{more}"


def _said_again(receipt: DeletionReceipt, key: ReceiptKey, traces: TraceRepository) -> list[str]:
    """Return the memories that say, in any version, what one of those that were deleted said."""
    wanted = set(receipt.digests)
    if not wanted:
        return []
    return sorted({cube_id for cube_id, digest in traces.every_digest() if key.digest(digest) in wanted})


def _made(name: str, passed: bool, checked: int, wrong: str, right: str) -> Check:
    return Check(name=name, passed=passed, checked=checked, finding=right if passed else wrong)
