"""Checks namespace by namespace, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set

from sqlalchemy import Connection

from memos.doctor.damage import Damage, Harm
from memos.doctor.report import Finding, NamespaceHealth, error, ok, warning
from memos.embedding.reindex import Progress
from memos.store import namespaces
from memos.store.database import Database
from memos.store.embedder_table import EmbedderRow
from memos.store.health import Health
from memos.store.namespaces import Namespace
from memos.store.vector_index import VectorIndex

_NAMED = 3
_PREFIX = "memos-"


class Spaces:
    """The namespaces of a store with their counts."""

    def __init__(self, database: Database, serving: EmbedderRow | None, progress: Progress) -> None:
        with database.read() as connection:
            self._spaces = list(namespaces.every(connection))
        self.healths: list[NamespaceHealth] = []
        for done, space in enumerate(self._spaces, 1):
            with database.read() as connection:
                self.healths.append(_counted(connection, space, serving))
            progress(done, len(self._spaces))

    def judged(self) -> Iterator[Finding]:
        """Yield what the tables say."""
        total = sum(health.counted for health in self.healths)
        miscounted = _named(self.healths, lambda health: health.counted != health.memories)
        orphaned = _named(self.healths, lambda health: health.orphans > 0)
        bare = _named(self.healths, lambda health: health.missing_vectors > 0)
        if orphaned:
            yield error(
                "memories",
                f"rows that do not fit together in {orphaned}; export these users and import them into a new store",
            )
        elif miscounted:
            yield error("memories", f"counted wrongly in {miscounted}; `memos doctor --repair` counts them anew")
        else:
            yield ok("memories", f"{total} in {len(self.healths)} namespaces")
        if bare:
            yield error(
                "vectors",
                f"missing in {bare}, which recall cannot find by meaning; run `memos reindex --embedder NAME` with the "
                f"present embedder",
            )
        elif others := sum(health.other_vectors for health in self.healths):
            yield warning(
                "vectors",
                f"{others} are left from an interrupted change of embedder; run it again to finish it",
            )
        else:
            yield ok("vectors", "every version has one")

    def indexed(self, index: VectorIndex, damages: Sequence[Damage]) -> Iterator[Finding]:
        """Say how each collection compares with its namespace; ``damages`` are those whose contents were compared."""
        serving = {space.collection for space in self._spaces if space.collection is not None}
        if not serving:
            yield ok("index", "no namespace is large enough for a collection")
            return
        names = set(index.names())
        for place, space in enumerate(self._spaces):
            if space.collection is not None:
                size = index.size(space.collection) if space.collection in names else 0
                self.healths[place] = self.healths[place].model_copy(update={"indexed": size})
        different = {damage.name for damage in damages if damage.harm is Harm.INDEX}
        yield self._index(different, sum(name.startswith(_PREFIX) for name in names - serving))

    def _index(self, different: Set[str], left_over: int) -> Finding:
        lagging = [health for health in self.healths if health.index_lag]
        wrong = _named(self.healths, lambda health: health.name in different)
        if wrong:
            return error(
                "index", f"not what the database says for {wrong}; `memos doctor --repair` or `memos reindex` builds it"
            )
        if lagging:
            most = max(health.index_lag for health in lagging)
            return warning(
                "index",
                f"{len(lagging)} namespaces are up to {most} writes behind; it catches up while the store is open",
            )
        if left_over:
            return warning("index", f"{left_over} collections serve no namespace of this store")
        return ok("index", "every collection is complete")


def _counted(connection: Connection, space: Namespace, serving: EmbedderRow | None) -> NamespaceHealth:
    present = namespaces.read(connection, space.id)
    rows = Health(connection, space.id)
    return NamespaceHealth(
        tenant=present.tenant,
        user_id=present.user_id,
        memories=present.memories,
        counted=rows.memories(),
        index_lag=present.revision - present.indexed_revision if present.collection else 0,
        missing_vectors=rows.unembedded(serving.id) if serving else 0,
        other_vectors=rows.of_other_embedders(serving.id) if serving else 0,
        orphans=rows.orphans() + rows.headless(),
    )


def _named(healths: Sequence[NamespaceHealth], wrong: Callable[[NamespaceHealth], bool]) -> str | None:
    """Return the names of the namespaces that are wrong, ``None`` if there are none."""
    names = [health.name for health in healths if wrong(health)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else None
