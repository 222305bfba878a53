"""Reading memories: recall, and the plain look-ups."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memos.clock import now_us
from memos.cube import CubeVersion, Link, MemCube, Parent, Scope
from memos.embedding.base import Embedder
from memos.embedding.serving import ServingEmbedder, active
from memos.errors import StoreUnavailable
from memos.plaintext import filters as filter_grammar
from memos.plaintext.filters import AllOf, Condition, Test
from memos.plaintext.graph import Followed, follow
from memos.plaintext.question import Question, understand
from memos.plaintext.ranking import CANDIDATES, Query, Ranking, Rows, nearest_of, rank
from memos.plaintext.recall import (
    SPARE,
    Hit,
    RecallRequest,
    RecallResult,
    context,
    found,
    head,
    hits,
    visible,
)
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Derived
from memos.store.embedder_table import EmbedderRow
from memos.store.fusions import FusionRepository
from memos.store.links import LinkRepository
from memos.store.namespaces import Namespace
from memos.store.notes import NoteRepository
from memos.store.relay import IndexRelay, serves
from memos.store.scoped import home_of
from memos.store.vector_index import VectorIndex
from memos.store.view import NONE, NamespaceView
from memos.store.views import ViewCache

logger = logging.getLogger(__name__)


class NoteReader:
    """Answers questions from the views; falls back to exact scans whenever the vector index cannot help."""

    def __init__(
        self,
        database: Database,
        embedder: ServingEmbedder,
        index: VectorIndex,
        relay: IndexRelay,
        views: ViewCache,
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._index = index
        self._relay = relay
        self._views = views

    def recall(self, scope: Scope, request: RecallRequest, filters: Mapping[str, Any] | None) -> RecallResult:
        """Return the memories of the scope that answer a question."""
        condition = _narrowed(filter_grammar.parse(filters), scope)
        return self._embedder.steady(lambda embedder: self._recall(scope, request, condition, embedder))

    def _recall(
        self, scope: Scope, request: RecallRequest, condition: Condition | None, embedder: Embedder
    ) -> RecallResult:
        clock = Stopwatch()
        home = self._home(scope, embedder)
        if home is None:
            return RecallResult(hits=(), context="")
        question = self._understand(home, request)
        clock.lap("understand")
        vector = embedder.embed([question.bare])[0]  # no lock or snapshot is held while a model runs
        clock.lap("embed")
        with self._opened(home, embedder) as opened:
            clock.lap("view")
            followed = self._rank(opened, request, condition, question, vector)
            clock.lap("rank")
            result = _answer(opened, followed, request, embedder)
            clock.lap("content")
        return result.model_copy(update={"timings": clock.laps})

    def get(self, tenant: str, cube_id: str, user_id: str | None) -> MemCube:
        """Return one memory; raise :class:`NotFound`."""
        with self._database.read() as connection:
            scope, repository = _locate(connection, tenant, cube_id, user_id)
            note = next(iter(_with_sources(repository, repository.get([cube_id], scope).values())), None)
            cube = note or Derived(connection, repository.namespace_id).cube(cube_id, scope)
        assert cube is not None  # located in this snapshot
        return cube

    def expand(self, tenant: str, cube_id: str, user_id: str | None) -> list[MemCube]:
        """Return the memories that a cube was made from, or that it stands for, in their order."""
        with self._database.read() as connection:
            scope, repository = _locate(connection, tenant, cube_id, user_id)
            ids = FusionRepository(connection, repository.namespace_id).sources(cube_id)
            found = repository.get(ids, scope)
        return [found[source] for source in ids if source in found]

    def page(self, scope: Scope, after: str | None, limit: int) -> list[MemCube]:
        """Return up to ``limit`` memories in the order they were stored, beginning after id ``after``."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return []
            repository = CubeRepository(connection, namespace.id)
            return _with_sources(repository, repository.page(scope, after, limit))

    def history(self, tenant: str, cube_id: str, user_id: str | None) -> list[CubeVersion]:
        """Return every version of a memory, oldest first."""
        with self._database.read() as connection:
            return _locate(connection, tenant, cube_id, user_id)[1].history(cube_id)

    def links(self, tenant: str, cube_id: str, user_id: str | None) -> list[Link]:
        """Return every link of a memory, strongest first."""
        with self._database.read() as connection:
            repository = _locate(connection, tenant, cube_id, user_id)[1]
            return LinkRepository(connection, repository.namespace_id).of(cube_id)

    def graph(self, scope: Scope) -> tuple[list[MemCube], list[Link]]:
        """Return all memories of a namespace and all links."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return [], []
            repository = CubeRepository(connection, namespace.id)
            notes = repository.get(repository.ids(scope), scope)
            return list(notes.values()), LinkRepository(connection, namespace.id).every()

    def follow(self, scope: Scope) -> None:
        """Let what this process knows of a namespace follow its deletions at once, not only when it is next asked."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
        if namespace is not None:
            self._views.follow(namespace.id, self._catch_up)

    # ------------------------------------------------------------ inside

    def _catch_up(self, view: NamespaceView) -> None:
        with self._database.read() as connection:
            view.catch_up(connection, namespaces.read(connection, view.namespace_id))

    def _home(self, scope: Scope, embedder: Embedder) -> tuple[int, EmbedderRow] | None:
        """Return the scope's namespace number and the embedder serving it, if anything was ever stored."""
        with self._database.read() as connection:
            row = active(connection, embedder)
            namespace = namespaces.find(connection, scope)
        return None if row is None or namespace is None else (namespace.id, row)

    def _understand(self, home: tuple[int, EmbedderRow], request: RecallRequest) -> Question:
        """Analyse the question against what the view knows, which may be a moment old."""
        with self._views.lease(*home) as view:
            if not view.revision:
                with self._database.read() as connection:
                    view.catch_up(connection, namespaces.read(connection, home[0]))
            return understand(request.query, view, request.reference)

    @contextmanager
    def _opened(self, home: tuple[int, EmbedderRow], embedder: Embedder) -> Iterator[_Opened]:
        """Open one snapshot of a namespace and its view at the same revision."""
        with self._views.lease(*home) as view, self._database.read() as connection:
            active(connection, embedder)
            namespace = namespaces.read(connection, home[0])
            view.catch_up(connection, namespace)
            yield _Opened(connection, namespace, view)

    def _rank(
        self,
        opened: _Opened,
        request: RecallRequest,
        condition: Condition | None,
        question: Question,
        vector: NDArray[np.float32],
    ) -> Followed:
        view = opened.view
        allowed = visible(view, request, condition, now_us())
        speaker = NONE if question.speaker is None else view.speakers.get(question.speaker, NONE)
        depth = max(CANDIDATES, request.top_k + SPARE)
        query = Query(vector, question.terms, speaker, question.periods, depth)
        whole = condition is None and request.as_of is None
        nearest = self._nearest(opened, query, allowed) if whole else None
        ranking = rank(view, query, allowed, nearest)
        return follow(ranking, LinkRepository(opened.connection, opened.namespace.id), view, query, allowed)

    def _nearest(self, opened: _Opened, query: Query, allowed: NDArray[np.bool_]) -> Rows | None:
        """Return dense candidates from the vector index plus an exact scan of what it has not taken in yet."""
        namespace, view = opened.namespace, opened.view
        if namespace.collection is None or not namespace.indexed_revision:
            return None
        if not serves(namespace.collection, view.embedder_id):
            return None
        try:
            ids = self._index.nearest(namespace.collection, query.vector, query.depth)
        except StoreUnavailable as error:
            logger.warning("recall scans exactly instead: %s", error)
            if error.extra.get("damaged"):
                self._relay.doubt(namespace.id)
            return None
        carried = int(np.count_nonzero(view.current & (view.row_revision <= namespace.indexed_revision)))
        if len(ids) < min(query.depth, carried):
            self._relay.doubt(namespace.id)  # its files were damaged so that it does not notice
            return None
        found = [view.row_of[cube_id] for cube_id in ids if cube_id in view.row_of]
        known = np.array(found, np.int64)
        usable = known[allowed[known]]
        if 2 * len(usable) < len(ids):
            return None  # most of the nearest are put away, expired or gone: others would be missed
        pending = np.flatnonzero(allowed & (view.row_revision > namespace.indexed_revision))
        return np.union1d(usable, nearest_of(view, query, pending))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A namespace in one snapshot, with its view."""

    connection: Connection
    namespace: Namespace
    view: NamespaceView


def _answer(opened: _Opened, followed: Followed, request: RecallRequest, embedder: Embedder) -> RecallResult:
    wanted = request.top_k + SPARE
    ranking = followed.ranking
    chosen = _hits(opened, head(ranking, wanted), followed, request)
    if len(chosen) < request.top_k and wanted < len(ranking.rows):
        chosen = _hits(opened, ranking, followed, request)  # so many duplicates that they left a gap
    if request.explain:
        chosen = _with_fusions(opened, chosen)
    return RecallResult(hits=chosen, context=context(chosen, request.max_tokens, embedder.count_tokens))


def _hits(opened: _Opened, ranking: Ranking, followed: Followed, request: RecallRequest) -> tuple[Hit, ...]:
    view = opened.view
    repository = CubeRepository(opened.connection, opened.namespace.id)
    ids = [view.cube_ids[row] for row in ranking.rows.tolist()]
    return hits(view, found(view, ranking, repository.content(ids)), followed, request)


def _with_fusions(opened: _Opened, chosen: Sequence[Hit]) -> tuple[Hit, ...]:
    """Return hits that say which memories they were fused from, where they were."""
    fused = FusionRepository(opened.connection, opened.namespace.id).of([hit.id for hit in chosen])
    return tuple(
        hit.model_copy(update={"why": {**(hit.why or {}), "fused": fused[hit.id]}}) if hit.id in fused else hit
        for hit in chosen
    )


def _with_sources(repository: CubeRepository, notes: Iterable[MemCube]) -> list[MemCube]:
    """Return memories with the near-duplicates each stands for."""
    found = list(notes)
    merged = NoteRepository(repository.connection, repository.namespace_id).merged([cube.id for cube in found])
    return [_with_parents(cube, merged[cube.id]) if cube.id in merged else cube for cube in found]


def _with_parents(cube: MemCube, sources: Sequence[tuple[str, int]]) -> MemCube:
    parents = tuple(Parent(cube_id=cube_id, version=version) for cube_id, version in sources)
    return cube.model_copy(update={"provenance": cube.provenance.model_copy(update={"parents": parents})})


class Stopwatch:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the time since the lap before."""
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now


def _narrowed(condition: Condition | None, scope: Scope) -> Condition | None:
    """Add the scope's agent and run to a filter."""
    named = {"agent_id": scope.agent_id, "run_id": scope.run_id}
    parts: list[Condition] = [Test(field, "$eq", value) for field, value in named.items() if value is not None]
    if condition is not None:
        parts.append(condition)
    return AllOf(tuple(parts)) if parts else None


def _locate(connection: Connection, tenant: str, cube_id: str, user_id: str | None) -> tuple[Scope, CubeRepository]:
    scope, namespace_id = home_of(connection, tenant, cube_id, user_id)
    return scope, CubeRepository(connection, namespace_id)
