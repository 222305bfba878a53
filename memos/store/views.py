"""Recently used namespace views, within a byte budget."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memos.store.embedder_table import EmbedderRow
from memos.store.view import NamespaceView


class ViewCache:
    """Least recently used views leave when the budget is exceeded; the one in use always stays."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._lock = threading.Lock()
        self._views: OrderedDict[int, NamespaceView] = OrderedDict()
        self._sizes: dict[int, int] = {}

    @contextmanager
    def lease(self, namespace_id: int, embedder: EmbedderRow) -> Iterator[NamespaceView]:
        """Hold the namespace's view while the block runs; a new one is empty and has to catch up first.

        Open the snapshot it catches up with inside the block: a view held is never ahead of such a snapshot.
        """
        view = self._find(namespace_id, embedder)
        with view.lock:
            before = view.revision
            yield view
            if view.revision != before:
                self._account(view)

    def follow(self, namespace_id: int, catch_up: Callable[[NamespaceView], None]) -> None:
        """Let the namespace's view catch up, if there is one that was loaded."""
        with self._lock:
            view = self._views.get(namespace_id)
        if view is not None:
            with view.lock:
                if view.revision:
                    catch_up(view)
                    self._account(view)

    def clear(self) -> None:
        """Drop every view."""
        with self._lock:
            self._views.clear()
            self._sizes.clear()

    def _find(self, namespace_id: int, embedder: EmbedderRow) -> NamespaceView:
        with self._lock:
            view = self._views.get(namespace_id)
            if view is None or view.embedder_id != embedder.id:
                view = NamespaceView(namespace_id, embedder.id, embedder.dimension)
                self._views[namespace_id] = view
                self._sizes[namespace_id] = 0
            self._views.move_to_end(namespace_id)
            return view

    def _account(self, view: NamespaceView) -> None:
        with self._lock:
            if self._views.get(view.namespace_id) is not view:
                return
            self._sizes[view.namespace_id] = view.nbytes
            while len(self._views) > 1 and sum(self._sizes.values()) > self._budget:
                oldest, _ = self._views.popitem(last=False)
                del self._sizes[oldest]
