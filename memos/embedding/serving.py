"""The embedder that serves a store: registered with the first vectors, checked before every use, switched online."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection

from memos.embedding.base import Embedder
from memos.errors import EmbedderMismatch
from memos.store import embedder_table
from memos.store.embedder_table import EmbedderRow

T = TypeVar("T")


class ServingEmbedder:
    """An embedder bound to a store: its vectors are never mixed with those of another model."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._switching = threading.Lock()
        self.changing = threading.Lock()  # held from the first new vector to the switch

    @property
    def present(self) -> Embedder:
        """The embedder that serves now."""
        return self._embedder

    def steady(self, operation: Callable[[Embedder], T]) -> T:
        """Run ``operation`` with the present embedder, and once more if it was switched meanwhile."""
        embedder = self._embedder
        try:
            return operation(embedder)
        except EmbedderMismatch:
            with self._switching:  # wait for a switch under way
                now = self._embedder
            if now is embedder:
                raise
            return operation(now)

    @contextmanager
    def switch(self, embedder: Embedder) -> Iterator[None]:
        """Serve with ``embedder`` once the block, which activates it in SQL, has succeeded."""
        with self._switching:
            yield
            self._embedder = embedder


def active(connection: Connection, embedder: Embedder) -> EmbedderRow | None:
    """Return the store's embedder, ``None`` if it has no vectors yet; raise if it is not ``embedder``."""
    row = embedder_table.active(connection)
    if row is not None:
        _check(row, embedder)
    return row


def register(connection: Connection, embedder: Embedder) -> EmbedderRow:
    """Return the store's embedder, making it ``embedder`` if there is none yet; raise if it is another."""
    if embedder_table.active(connection) is None:
        embedder_table.hold(connection)  # other writers of an empty store do the same now
    else:
        embedder_table.share(connection)
    row = embedder_table.active(connection)  # again, now that nobody changes it
    if row is None:
        return embedder_table.register(connection, embedder.identity, embedder.dimension)
    _check(row, embedder)
    return row


def _check(row: EmbedderRow, embedder: Embedder) -> None:
    if row.identity != embedder.identity:
        raise EmbedderMismatch(
            f"this store was embedded by {row.identity}, but {embedder.identity} is configured; configure the first "
            f"one again, or run `memos reindex --embedder NAME` to change over",
            stored=row.identity,
            configured=embedder.identity,
        )
