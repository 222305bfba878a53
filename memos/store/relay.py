"""Carries committed changes to the vector index: the outbox relay.

SQL commits first; the relay follows the change feed and moves the namespace's cursor only after Chroma has taken the
change. Every step may be repeated, so a crash anywhere costs a repetition, never a memory. Recall scans what lies
behind the cursor itself, so it does not wait for the relay.
"""

from __future__ import annotations

import logging
import threading

import numpy as np
from sqlalchemy import Connection

from memos.cube import Scope
from memos.errors import MemosError
from memos.store import embedder_table, namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.namespaces import Namespace
from memos.store.records import Outbox
from memos.store.vector_index import VectorIndex

logger = logging.getLogger(__name__)
RETRY_S = 5.0


class IndexRelay:
    """Brings the vector index up to date, on demand or from a background thread."""

    def __init__(self, database: Database, index: VectorIndex, threshold: int) -> None:
        self._database = database
        self._index = index
        self._threshold = threshold
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

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
        for namespace in lagging:
            if self._stopping.is_set():
                break
            self.sync(namespace.id)
        return len(lagging)

    def sync(self, namespace_id: int) -> None:
        """Bring one namespace's collection up to the present revision."""
        with self._turn, self._database.lease(f"memos-index-{namespace_id}") as granted:
            if granted:
                self._sync(namespace_id)

    def follow(self, scope: Scope) -> None:
        """Bring the collection of one scope's namespace up to date now, if it has one."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
        if namespace is not None and namespace.collection is not None:
            self.sync(namespace.id)

    def drop(self, namespace_id: int) -> None:
        """Forget the namespace's collection; it is rebuilt when next due."""
        with self._turn, self._database.write() as connection:
            namespace = namespaces.lock(connection, namespace_id)
            if namespace.collection is not None:
                self._index.drop(namespace.collection)
            namespaces.set_index(connection, namespace_id, None, 0)

    # ------------------------------------------------------------ inside

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.drain()
                pause = None
            except MemosError as error:
                logger.warning("index relay will try again in %.0f s: %s", RETRY_S, error)
                pause = RETRY_S
            if not self._stopping.is_set():
                self._wake.wait(pause)
                self._wake.clear()

    def _sync(self, namespace_id: int) -> None:
        with self._database.read() as connection:
            namespace = namespaces.read(connection, namespace_id)
            embedder = embedder_table.active(connection)
            if embedder is None or not self._due(namespace):
                return
            name = collection_name(namespace.id, embedder.id)
            fresh = namespace.collection != name or not self._index.exists(name)
            since = 0 if fresh else namespace.indexed_revision
            ids, vectors = CubeRepository(connection, namespace.id).current_vectors(
                since, namespace.revision, embedder.id
            )
            gone, cleared = _removals(connection, namespace, since)
        if fresh or cleared:
            self._index.drop(name)
        self._index.upsert(name, ids, np.ascontiguousarray(vectors))
        if gone and not (fresh or cleared):
            self._index.remove(name, gone)
        with self._database.write() as connection:
            namespaces.set_index(connection, namespace.id, name, namespace.revision)

    def _due(self, namespace: Namespace) -> bool:
        grown = namespace.collection is None and namespace.memories >= self._threshold
        return grown or (
            namespace.collection is not None and namespace.indexed_revision < namespace.revision
        )


def collection_name(namespace_id: int, embedder_id: int) -> str:
    """Return the collection of a namespace under one embedder; user names never reach Chroma."""
    return f"memos-{namespace_id}-{embedder_id}"


def _removals(connection: Connection, namespace: Namespace, since: int) -> tuple[list[str], bool]:
    if not since:
        return [], False
    removals = Outbox(connection, namespace.id).removals(since, namespace.revision)
    return [cube_id for removal in removals for cube_id in removal.cube_ids], any(
        r.clear for r in removals
    )
