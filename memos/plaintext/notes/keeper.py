"""Writing notes in the background, top to bottom: take, hold against others, write, embed, apply in one transaction.

The queue is in the memories themselves: every one that wants a note and has none waits. Whatever stops the work, what
waits is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.embedding.serving import ServingEmbedder, active, register
from memos.plaintext.notes.apply import Applied, Embedded, apply
from memos.plaintext.notes.member import Draft
from memos.plaintext.notes.neighbourhood import Acquaintances, drafts_of
from memos.plaintext.notes.plan import Plan, plan_of
from memos.plaintext.notes.scribe import Scribe
from memos.schedule.task import Report
from memos.store import namespaces
from memos.store.database import Database
from memos.store.derived import Gone
from memos.store.notes import NoteRepository
from memos.store.views import ViewCache


class NoteKeeper:
    """Constructs, links and evolves the notes of a namespace's memories, batch by batch."""

    def __init__(
        self,
        database: Database,
        embedder: ServingEmbedder,
        views: ViewCache,
        scribe: Scribe,
        discard: Callable[[Scope, Gone], object],
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._views = views
        self._scribe = scribe
        self._discard = discard
        self._wake = wake

    def run(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Write every note that waits, and those of ``ids`` again; return what became of them.

        A memory that changes meanwhile waits again, so that this ends when nothing waits any more.
        """
        total, before = Applied(), self._scribe.spent
        again, known = list(payload.get("ids", ())), Acquaintances()
        while ids := self._next(scope, again):
            done = self._embedder.steady(partial(self._batch, scope, ids, known))
            total = total + done
            again = [cube_id for cube_id in again if cube_id not in set(ids)]
            waiting = self._waiting(scope) + len(again)
            report(total.seen / max(1, total.seen + waiting))
            self._wake()
            if not done.seen:
                break  # nothing of this batch is there any more, or its embedder is being changed
        return {**total.counts, **asdict(self._scribe.spent - before)}

    # ------------------------------------------------------------ inside

    def _next(self, scope: Scope, again: Sequence[str]) -> list[str]:
        if again:
            return list(again[: self._scribe.batch])
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            return [] if namespace is None else NoteRepository(connection, namespace.id).waiting(self._scribe.batch)

    def _waiting(self, scope: Scope) -> int:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            return 0 if namespace is None else NoteRepository(connection, namespace.id).count_waiting()

    def _batch(self, scope: Scope, ids: Sequence[str], known: Acquaintances, embedder: Embedder) -> Applied:
        drafts = self._drafts(scope, ids, known, embedder)
        plan = plan_of(drafts, self._scribe.write(drafts))
        vectors = _embedded(plan, embedder)
        with self._database.write() as connection:
            row = register(connection, embedder)
            namespace = namespaces.open_for_write(connection, scope)
            applied = apply(connection, namespace, scope, plan, Embedded(row.id, vectors))
        if applied.gone:
            self._discard(scope, applied.gone)
        return applied

    def _drafts(self, scope: Scope, ids: Sequence[str], known: Acquaintances, embedder: Embedder) -> list[Draft]:
        with self._database.read() as connection:
            row, namespace = active(connection, embedder), namespaces.find(connection, scope)
        if row is None or namespace is None:
            return []
        with self._views.lease(namespace.id, row) as view, self._database.read() as connection:
            active(connection, embedder)
            view.catch_up(connection, namespaces.read(connection, namespace.id))
            return drafts_of(view, connection, scope, ids, known)


def _embedded(plan: Plan, embedder: Embedder) -> dict[str, NDArray[np.float32]]:
    """Return the vector of every text with a note that the plan will write, by that text."""
    texts = plan.note_texts
    return dict(zip(texts, embedder.embed(texts), strict=True)) if texts else {}
