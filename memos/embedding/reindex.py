"""Rebuilding indexes from SQL, and changing the embedder while the old one serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from memos.embedding.base import Embedder
from memos.embedding.serving import ServingEmbedder
from memos.errors import Conflict, StoreUnavailable
from memos.store import embedder_table, namespaces
from memos.store.cube_rows import Embedded, Unembedded
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.namespaces import Namespace
from memos.store.relay import IndexRelay, serves
from memos.store.views import ViewCache

logger = logging.getLogger(__name__)
BATCH = 256
Progress = Callable[[int, int], None]


class Reindexer:
    """Makes vectors and collections anew; recall goes on meanwhile."""

    def __init__(self, database: Database, embedder: ServingEmbedder, relay: IndexRelay, views: ViewCache) -> None:
        self._database = database
        self._embedder = embedder
        self._relay = relay
        self._views = views

    def rebuild(self, progress: Progress) -> int:
        """Drop every collection and view and build them again from SQL; return the number of namespaces."""
        spaces = self._spaces()
        self._views.clear()
        for done, namespace in enumerate(spaces, 1):
            self._relay.rebuild(namespace.id)
            progress(done, len(spaces))
        return len(spaces)

    def change_embedder(self, embedder: Embedder, progress: Progress) -> int:
        """Embed every version with ``embedder``, then switch over in one transaction; return the vectors made.

        Interrupted before the switch, the old embedder goes on serving and the next run continues. Raises
        :class:`Conflict` while another change is under way.
        """
        with self._alone():
            with self._database.write() as connection:
                embedder_table.hold(connection)
                target = embedder_table.register(connection, embedder.identity, embedder.dimension)
            made = self._embed_missing(embedder, target.id, progress)
            with self._embedder.switch(embedder):
                left = self._switch(embedder, target.id)
        self._views.clear()
        self._discard(left)
        self._relay.wake()
        return made

    # ------------------------------------------------------------ inside

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no second change begin, in this process or another: each would remove the vectors of the other."""
        with self._database.lease("memos-embedder-change") as granted:
            if not granted or not self._embedder.changing.acquire(blocking=False):
                raise Conflict("the embedder is being changed already; wait until that has ended")
            try:
                yield
            finally:
                self._embedder.changing.release()

    def _spaces(self) -> list[Namespace]:
        with self._database.read() as connection:
            return list(namespaces.every(connection))

    def _embed_missing(self, embedder: Embedder, embedder_id: int, progress: Progress) -> int:
        spaces = self._spaces()
        total = sum(namespace.memories for namespace in spaces)
        made = 0
        for namespace in spaces:
            batch = BATCH
            while batch == BATCH:  # a short batch has caught up; writers who keep on do not keep this from ending
                batch = self._embed_batch(namespace.id, embedder, embedder_id)
                made += batch
                progress(made, max(total, made))
        return made

    def _embed_batch(self, namespace_id: int, embedder: Embedder, embedder_id: int) -> int:
        with self._database.read() as connection:
            missing = CubeRepository(connection, namespace_id).unembedded(embedder_id, BATCH)
        if not missing:
            return 0
        made = _embed(missing, embedder)
        with self._database.write() as connection:
            namespaces.lock(connection, namespace_id)
            repository = CubeRepository(connection, namespace_id)
            present = repository.existing([one.cube_id for one in missing])  # some may be forgotten by now
            repository.add_vectors([row for row in made if row[0] in present], embedder_id)
        return len(missing)

    def _switch(self, embedder: Embedder, embedder_id: int) -> list[Namespace]:
        """Change over; return the namespaces with the collections that served them until now."""
        with self._database.write() as connection:
            embedder_table.hold(connection)
            indexed = [space for space in namespaces.every(connection) if _leaves(space, embedder_id)]
            namespaces.forget_all_indexes(connection)  # locks every namespace: no writer is under way from here on
            for namespace in list(namespaces.every(connection)):
                repository = CubeRepository(connection, namespace.id)
                _embed_rest(repository, embedder, embedder_id)
                repository.drop_vectors(embedder_id)
            embedder_table.activate(connection, embedder_id)
            embedder_table.remove_others(connection, embedder_id)
        return indexed

    def _discard(self, indexed: list[Namespace]) -> None:
        for namespace in indexed:
            assert namespace.collection is not None
            try:
                self._relay.discard(namespace.id, namespace.collection)
            except StoreUnavailable as error:
                logger.warning("collection %s is left behind: %s", namespace.collection, error)


def _leaves(namespace: Namespace, embedder_id: int) -> bool:
    """Whether the namespace has a collection that the embedder will not serve."""
    return namespace.collection is not None and not serves(namespace.collection, embedder_id)


def _embed_rest(repository: CubeRepository, embedder: Embedder, embedder_id: int) -> None:
    """Embed the few versions written since the last pass."""
    while missing := repository.unembedded(embedder_id, BATCH):
        repository.add_vectors(_embed(missing, embedder), embedder_id)


def _embed(missing: Sequence[Unembedded], embedder: Embedder) -> list[Embedded]:
    """Embed texts, and once more with their notes those that have one."""
    noted = [one for one in missing if one.note is not None]
    vectors = embedder.embed([*(one.text for one in missing), *(one.note or "" for one in noted)])
    enriched = dict(zip(((one.cube_id, one.version) for one in noted), vectors[len(missing) :], strict=True))
    return [
        (one.cube_id, one.version, vector, enriched.get((one.cube_id, one.version)))
        for one, vector in zip(missing, vectors, strict=False)
    ]
