"""Exact reuse: which KV file covers the memories of a prompt, and its cache.

cover: which live cube was made from most of the memories -> load: from host memory, or from the file, checked
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from memos.activation.bundle import Bundle, bundle_of, note_of
from memos.activation.files import KVFiles
from memos.activation.hot import HotFiles
from memos.activation.layered import LayeredKV
from memos.activation.loader import load, overlap_pays
from memos.activation.opened import Expected
from memos.clock import now_us
from memos.cube import Scope
from memos.plaintext.recall import Hit
from memos.runtime.host import Serving
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.cubes import CubeRepository
from memos.store.database import Database

#: A bundle is taken when it holds at least this share of the recalled memories: the rest of it is context, too.
MIN_SHARE = 0.5
#: Prompts whose tokens are remembered, so that a question about the same memories need not tokenise them again.
REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Cover:
    """A live cube, the bundle it was made from, and the tokens its cache has to be for: prompt head and bundle."""

    activation: Activation
    bundle: Bundle
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A cache to put before a prompt; ``cold`` if its file was read for this request."""

    kv: LayeredKV
    cold: bool

    @property
    def read_ms(self) -> float:
        """Milliseconds that reading and verifying took."""
        return self.kv.milliseconds["read"] if self.cold else 0.0

    @property
    def decode_ms(self) -> float:
        """Milliseconds that decoding took."""
        return self.kv.milliseconds["decode"] if self.cold else 0.0


class Reuse:
    """Finds and loads KV files. Caches are immutable: any number of requests may hold the same one."""

    def __init__(self, database: Database, files: KVFiles, hot: HotFiles) -> None:
        self._database = database
        self._files = files
        self._hot = hot
        self._covers: dict[str, Cover] = {}
        self._lock = threading.Lock()

    def cover(self, scope: Scope, hits: Sequence[Hit], serving: Serving) -> Cover | None:
        """Return the live cube of this model that covers the hits best, if one covers enough of them.

        A cube is live if every note it was made from stands, unchanged, within the scope.
        """
        chosen = {hit.id for hit in hits}
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None or not chosen:
                return None
            repository = ActivationRepository(connection, namespace.id)
            candidates = _ranked(repository.touching([hit.id for hit in hits], serving.fingerprint), chosen)
            now = now_us()
            best = next(
                (one for one in candidates if repository.live(one.sources, scope, now) == set(one.sources)), None
            )
            if best is None:
                return None
            known = self._covers.get(best.key)
            if known is not None and known.activation.sources == best.sources:
                return Cover(best, known.bundle, known.tokens)
            ids = [cube_id for cube_id, _ in best.sources]
            notes = CubeRepository(connection, namespace.id).get(ids, scope)
        bundle = bundle_of(note_of(cube) for cube in notes.values())
        cover = Cover(best, bundle, (*serving.format.head, *bundle.tokens(serving.format.encode_text)))
        self._remember(cover)
        return cover

    def load(self, scope: Scope, cover: Cover, serving: Serving) -> Loaded:
        """Return the cache of a cover, from host memory or its file. Raises ``KVMiss`` with the reason why not.

        Its layers may still be arriving, where cores are left to load them while the model runs.
        """
        load_file, read = self._loading(scope, cover, serving), []

        def reading() -> LayeredKV:
            read.append(kv := load_file())
            return kv

        kv = self._hot.get(cover.activation.key, reading)
        if serving.loaded.device.type == "cpu" and not overlap_pays():
            kv.wait()
        return Loaded(kv, cold=bool(read))

    def prefetch(self, scope: Scope, hits: Sequence[Hit], serving: Serving) -> None:
        """Begin to load the cache that a chat about these hits would need; a miss is found again when it counts."""
        cover = self.cover(scope, hits, serving)
        if cover is not None:
            self._hot.prefetch(cover.activation.key, self._loading(scope, cover, serving))

    def _loading(self, scope: Scope, cover: Cover, serving: Serving) -> Callable[[], LayeredKV]:
        expected = Expected(
            fingerprint=serving.fingerprint,
            shape=serving.loaded.shape,
            sources=cover.activation.sources,
            token_ids=cover.tokens,
        )
        return lambda: load(self._files.open(scope.tenant, cover.activation.key, expected))

    def count(self, scope: Scope, cover: Cover, *, tokens: int) -> None:
        """Record that a chat used a cube (``tokens`` > 0), or could not."""
        with self._database.write() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is not None:
                use = {"hits": 1, "tokens": tokens} if tokens else {"misses": 1}
                ActivationRepository(connection, namespace.id).count_use(cover.activation.cube_id, **use)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop what host memory holds of files that are gone."""
        for key in keys:
            self._hot.drop(key)
            with self._lock:
                self._covers.pop(key, None)

    def _remember(self, cover: Cover) -> None:
        with self._lock:
            self._covers[cover.activation.key] = cover
            while len(self._covers) > REMEMBERED:
                self._covers.pop(next(iter(self._covers)))


def _ranked(activations: Sequence[Activation], chosen: Collection[str]) -> list[Activation]:
    """Return the cubes made from enough of the chosen notes: from most of them first, the smaller of equals."""
    shared = {one.cube_id: sum(cube_id in chosen for cube_id, _ in one.sources) for one in activations}
    enough = [one for one in activations if shared[one.cube_id] >= MIN_SHARE * len(chosen)]
    return sorted(enough, key=lambda one: (-shared[one.cube_id], one.tokens, one.cube_id))
