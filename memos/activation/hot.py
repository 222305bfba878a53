"""Recently used caches in host memory, least recently used out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from memos.activation.layered import LayeredKV
from memos.activation.miss import KVMiss

Load = Callable[[], LayeredKV]


@dataclass(frozen=True, slots=True)
class HotStats:
    """Lookups that found a cache in memory or being loaded, lookups that had to load it, and the memory held."""

    hits: int
    misses: int
    bytes: int
    caches: int


class HotFiles:
    """Caches by storage key, at most ``limit_bytes`` with what is lent; one larger than that is loaded but not kept.

    A cache is immutable, and lives as long as a request holds it, whatever is dropped here.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, LayeredKV] = OrderedDict()
        self._loading: dict[str, Future[LayeredKV]] = {}
        self._hits = self._misses = self._bytes = self._lent = 0
        self._lock = threading.Lock()
        self._background = ThreadPoolExecutor(1, "memos-kv-prefetch")

    def get(self, key: str, load: Load) -> LayeredKV:
        """Return the cache of a key; load it if it is not here. Of callers at the same time, one loads for all.

        Raises what ``load`` raises. ``load`` must not ask for the same key.
        """
        with self._lock:
            kept = self._usable(key)
            if kept is not None:
                self._hits += 1
                return kept
            pending = self._loading.get(key)
            self._hits += pending is not None
            self._misses += pending is None
            mine = self._loading.setdefault(key, Future())
        return self._load(key, mine, load) if pending is None else pending.result()

    def holds(self, key: str) -> bool:
        """Return whether a cache is here, or being loaded. Nobody uses it by that."""
        with self._lock:
            return key in self._kept or key in self._loading

    def put(self, key: str, kv: LayeredKV) -> None:
        """Keep a cache, and let go of others to stay within the limit."""
        with self._lock:
            self._put(key, kv)

    def prefetch(self, key: str, load: Load) -> None:
        """Begin to load a cache in the background, unless it is here. What goes wrong is found again by :meth:`get`."""
        with self._lock:
            if self._usable(key) is not None or key in self._loading:
                return
        self._background.submit(self._prefetch, key, load)

    def drop(self, key: str) -> None:
        """Forget a cache, also one that is still being loaded."""
        with self._lock:
            self._loading.pop(key, None)
            self._drop(key)

    def drop_all(self) -> None:
        """Forget every cache."""
        with self._lock:
            self._loading.clear()
            for key in list(self._kept):
                self._drop(key)

    def lend(self, count: int) -> None:
        """Leave so many bytes of the limit to what is kept elsewhere, in place of what was left before."""
        with self._lock:
            self._lent = count
            self._trim()

    @property
    def limit(self) -> int:
        """The most memory that caches here and what is lent may take."""
        return self._limit

    @property
    def bytes(self) -> int:
        """The memory held, and what is lent."""
        return self._bytes + self._lent

    def stats(self) -> HotStats:
        """Return the counters."""
        with self._lock:
            return HotStats(self._hits, self._misses, self.bytes, len(self._kept))

    # ------------------------------------------------------------ inside

    def _prefetch(self, key: str, load: Load) -> None:
        try:
            self.get(key, load)
        except KVMiss:
            return

    def _load(self, key: str, mine: Future[LayeredKV], load: Load) -> LayeredKV:
        kv: LayeredKV | None = None
        try:
            kv = load()
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            self._loaded(key, mine, kv)
        mine.set_result(kv)
        return kv

    def _loaded(self, key: str, mine: Future[LayeredKV], kv: LayeredKV | None) -> None:
        """Keep what was loaded, unless the key was dropped meanwhile."""
        with self._lock:
            if self._loading.get(key) is mine:
                del self._loading[key]
                if kv is not None:
                    self._put(key, kv)

    def _usable(self, key: str) -> LayeredKV | None:
        kv = self._kept.get(key)
        if kv is not None and kv.failure is not None:
            self._drop(key)
            return None
        if kv is not None:
            self._kept.move_to_end(key)
        return kv

    def _put(self, key: str, kv: LayeredKV) -> None:
        self._drop(key)
        if kv.bytes > self._limit:
            return
        self._kept[key] = kv
        self._bytes += kv.bytes
        self._trim()

    def _trim(self) -> None:
        while self._kept and self.bytes > self._limit:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        kv = self._kept.pop(key, None)
        if kv is not None:
            self._bytes -= kv.bytes
