"""Recently used namespace views, within a byte budget."""

from __future__ import annotations

import threading
from collections import OrderedDict

from sqlalchemy import Connection

from memos.store.embedder_table import EmbedderRow
from memos.store.namespaces import Namespace
from memos.store.view import NamespaceView


class ViewCache:
    """Least recently used views leave when the budget is exceeded; the one in use always stays."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._lock = threading.Lock()
        self._views: OrderedDict[int, NamespaceView] = OrderedDict()
        self._sizes: dict[int, int] = {}

    def current(
        self, connection: Connection, namespace: Namespace, embedder: EmbedderRow
    ) -> NamespaceView:
        """Return the view of ``namespace`` as of the connection's snapshot, loading or catching up as needed."""
        view = self._find(namespace, embedder)
        with view.lock:
            before = view.revision
            view.catch_up(connection, namespace)
            if view.revision != before:
                self._account(view)
        return view

    def clear(self) -> None:
        """Drop every view."""
        with self._lock:
            self._views.clear()
            self._sizes.clear()

    def _find(self, namespace: Namespace, embedder: EmbedderRow) -> NamespaceView:
        with self._lock:
            view = self._views.get(namespace.id)
            if view is None or view.embedder_id != embedder.id or view.stale(namespace):
                view = NamespaceView(namespace.id, embedder.id, embedder.dimension)
                self._views[namespace.id] = view
                self._sizes[namespace.id] = 0
            self._views.move_to_end(namespace.id)
            return view

    def _account(self, view: NamespaceView) -> None:
        with self._lock:
            if self._views.get(view.namespace_id) is not view:
                return
            self._sizes[view.namespace_id] = view.nbytes
            while len(self._views) > 1 and sum(self._sizes.values()) > self._budget:
                oldest, _ = self._views.popitem(last=False)
                del self._sizes[oldest]
