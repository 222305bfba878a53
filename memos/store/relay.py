"""Carries committed changes to the vector index: the outbox relay.

SQL commits first; the relay follows the change feed and moves the namespace's cursor only after Chroma has taken the
change. Every step may be repeated, so a crash anywhere costs a repetition, never a memory. Recall scans what lies
behind the cursor itself, so it does not wait for the relay.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memos.cube import Scope
from memos.errors import MemosError, StoreUnavailable
from memos.store import embedder_table, namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.embedder_table import EmbedderRow
from memos.store.namespaces import Namespace
from memos.store.records import Outbox
from memos.store.vector_index import VectorIndex

logger = logging.getLogger(__name__)
BATCH = 2_048
RETRY_S = 5.0
QUIET_S = 1.0  # without a write, before the relay starts
PATIENCE_S = 60.0  # of uninterrupted writing, after which it starts all the same
AGAIN_S = 0.2  # another process may have been at it, with an older snapshot
WAIT_S = 10.0  # for another process to finish its step, when a caller waits for the outcome


class IndexRelay:
    """Brings the vector index up to date, on demand or from a background thread."""

    def __init__(self, database: Database, index: VectorIndex, threshold: int) -> None:
        self._database = database
        self._index = index
        self._threshold = threshold
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._doubtful: set[int] = set()
        self._healing = threading.Lock()
        self._thread: threading.Thread | None = None

    def recover(self) -> None:
        """Have collections built anew that were being written when this store's last process ended.

        Chroma's own files are not crash-safe: torn ones can fail, or answer with less than they hold.
        """
        with self._database.write() as connection:
            torn = namespaces.distrust_half_indexed(connection)
        if torn:
            logger.warning("%d collections were being written when the last process ended: building them anew", torn)

    def start(self) -> None:
        """Follow the feed from a daemon thread until :meth:`stop`."""
        self._thread = threading.Thread(target=self._run, name="memos-index-relay", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to carry."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the step under way and end the thread; the rest is carried on after the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def drain(self) -> int:
        """Carry everything there is now; return how many namespaces had work."""
        with self._database.read() as connection:
            lagging = namespaces.behind(connection, self._threshold)
        with self._healing:  # whoever else drains waits for what is being made anew, and does not make it a second time
            while self._doubtful:
                self.rebuild(self._doubtful.pop())
        for namespace in lagging:
            if self._stopping.is_set():
                break
            self.sync(namespace.id)
        return len(lagging)

    def doubt(self, namespace_id: int) -> None:
        """Have a collection built anew that turned out damaged while it was searched."""
        self._doubtful.add(namespace_id)
        self.wake()

    def sync(self, namespace_id: int) -> None:
        """Bring one namespace's collection up to the present revision, unless another process is at it."""
        with self._turn, self._database.lease(_lease(namespace_id)) as granted:
            if granted:
                self._sync(namespace_id)

    def sync_now(self, namespace_id: int) -> None:
        """Do the same, after another process if need be; raise ``StoreUnavailable`` if that takes too long."""
        with self.alone(namespace_id):
            self._sync(namespace_id)

    def follow(self, scope: Scope) -> None:
        """Bring the collection of one scope's namespace up to date now, if it has one."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
        if namespace is not None and namespace.collection is not None:
            self.sync_now(namespace.id)

    def rebuild(self, namespace_id: int) -> None:
        """Make the namespace's collection anew, if it is large enough for one; meanwhile recall scans."""
        with self.alone(namespace_id):
            self._let_go(namespace_id)
            self._sync(namespace_id)

    def discard(self, namespace_id: int, collection: str) -> None:
        """Drop a collection that no longer serves the namespace."""
        with self.alone(namespace_id):
            self._index.drop(collection)

    @contextmanager
    def alone(self, namespace_id: int) -> Iterator[None]:
        """Keep everybody else from writing to a namespace's collection; raise ``StoreUnavailable`` if it takes long."""
        with self._turn, self._database.lease(_lease(namespace_id), WAIT_S) as granted:
            if not granted:
                raise StoreUnavailable("another process is busy with the vector index; repeat this")
            yield

    # ------------------------------------------------------------ inside

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                pause = AGAIN_S if self.drain() else None
            except MemosError as error:
                logger.warning("index relay will try again in %.0f s: %s", RETRY_S, error)
                pause = RETRY_S
            if self._wake.wait(pause):
                self._wait_for_quiet()

    def _wait_for_quiet(self) -> None:
        """Let writers go first: recall scans what is pending, so being late costs it little."""
        latest = time.monotonic() + PATIENCE_S
        while not self._stopping.is_set() and time.monotonic() < latest:
            self._wake.clear()
            if not self._wake.wait(QUIET_S):
                return

    def _sync(self, namespace_id: int) -> None:
        try:
            self._step(namespace_id)
        except StoreUnavailable as error:
            if not error.extra.get("damaged"):
                raise
            logger.warning("building a collection anew: %s", error)
            self._let_go(namespace_id)
            self._step(namespace_id)

    def _let_go(self, namespace_id: int) -> None:
        """Drop the namespace's collection; SQL says so first, so that nobody takes what is left for whole."""
        with self._database.write() as connection:
            namespace = namespaces.lock(connection, namespace_id)
            namespaces.distrust_index(connection, namespace_id)
        if namespace.collection is not None:
            self._index.drop(namespace.collection)

    def _step(self, namespace_id: int) -> None:
        with self._database.read() as connection:
            namespace = namespaces.read(connection, namespace_id)
            embedder = embedder_table.active(connection)
            if embedder is None or not self._due(namespace):
                return
            name = collection_name(namespace.id, embedder)
            trusted = namespace.collection == name and namespace.indexed_revision > 0
            fresh = not (trusted and self._index.exists(name))
            since = 0 if fresh else namespace.indexed_revision
            ids, vectors = CubeRepository(connection, namespace.id).current_vectors(
                since, namespace.revision, embedder.id
            )
            gone, cleared = _removals(connection, namespace, since)
        with self._database.write() as connection:
            if fresh:  # until it is whole again, nobody may take it for whole
                namespaces.distrust_index(connection, namespace.id)
            namespaces.begin_indexing(connection, namespace.id)
        if fresh or cleared:
            self._index.drop(name)
        elif gone:  # before the rest: what was forgotten may have been imported again since
            self._index.remove(name, gone)
        if not self._upsert(name, ids, vectors):
            return
        with self._database.write() as connection:
            embedder_table.share(connection)
            serving = embedder_table.active(connection) == embedder
            if serving:
                namespaces.set_index(connection, namespace.id, name, namespace.revision)
        if not serving:  # the embedder was changed meanwhile
            self._index.drop(name)

    def _upsert(self, name: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> bool:
        """Carry vectors in batches; return whether all were, which stopping prevents."""
        for start in range(0, max(len(ids), 1), BATCH):
            if self._stopping.is_set():
                return False
            part = slice(start, start + BATCH)
            self._index.upsert(name, ids[part], np.ascontiguousarray(vectors[part]))
        return True

    def _due(self, namespace: Namespace) -> bool:
        grown = namespace.collection is None and namespace.memories >= self._threshold
        return grown or (namespace.collection is not None and namespace.indexed_revision < namespace.revision)


def _lease(namespace_id: int) -> str:
    return f"memos-index-{namespace_id}"


def collection_name(namespace_id: int, embedder: EmbedderRow) -> str:
    """Return the collection of a namespace under one embedder; user names never reach Chroma.

    The time at which the embedder was registered keeps apart several stores at one Chroma server.
    """
    return f"memos-{embedder.created_at:x}-{namespace_id}-{embedder.id}"


def serves(collection: str, embedder_id: int) -> bool:
    """Whether a namespace's collection holds the vectors of this embedder."""
    return collection.endswith(f"-{embedder_id}")


def _removals(connection: Connection, namespace: Namespace, since: int) -> tuple[list[str], bool]:
    if not since:
        return [], False
    removals = Outbox(connection, namespace.id).removals(since, namespace.revision)
    return [cube_id for removal in removals for cube_id in removal.cube_ids], any(r.clear for r in removals)
