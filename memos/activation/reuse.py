"""Reuse: which KV files cover the memories of a prompt, and their caches.

covers: which live cubes were made from most of the memories -> load: from host memory, or from the file, checked
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from memos.activation.bundle import ROOM, Bundle, bundle_of, note_of
from memos.activation.compose.covering import disjoint
from memos.activation.files import KVFiles
from memos.activation.hot import HotFiles
from memos.activation.layered import LayeredKV
from memos.activation.loader import load, overlap_pays
from memos.activation.opened import Expected
from memos.clock import now_us
from memos.cube import Kind, MemCube, Scope
from memos.plaintext.recall import Hit
from memos.runtime.host import Serving
from memos.schedule.foresight.staging import Staging
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.lineage import Source

#: Prompts whose tokens are remembered, so that a question about the same memories need not tokenise them again.
REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Cover:
    """A live cube, the bundle it was made from, and the tokens its cache has to be for: prompt head and bundle."""

    activation: Activation
    bundle: Bundle
    tokens: tuple[int, ...]

    @property
    def memory(self) -> tuple[int, ...]:
        """The tokens of the bundle alone."""
        return self.tokens[self.activation.head_tokens :]


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

    def __init__(self, database: Database, files: KVFiles, hot: HotFiles, staging: Staging) -> None:
        self._database = database
        self._files = files
        self._hot = hot
        self._staging = staging
        self._covers: dict[str, Cover] = {}
        self._lock = threading.Lock()

    def covers(self, scope: Scope, hits: Sequence[Hit], serving: Serving, most: int) -> list[Cover]:
        """Return ``most`` live cubes of this model, disjoint, that cover the hits together: the best one first.

        A cube is live if every note it was made from stands, unchanged, within the scope.
        """
        chosen = {hit.id for hit in hits}
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None or not chosen:
                return []
            repository, now = ActivationRepository(connection, namespace.id), now_us()
            touching = repository.touching(sorted(chosen), serving.fingerprint)
            live = repository.live({source for one in touching for source in one.sources}, scope, now)
            window = serving.loaded.context_window
            room = window - window // ROOM - len(serving.format.head)
            taken = disjoint([one for one in touching if live.issuperset(one.sources)], chosen, room, most)
            known = [self._known(one) for one in taken]
            ids = [note for one, cover in zip(taken, known, strict=True) if cover is None for note, _ in one.sources]
            notes = CubeRepository(connection, namespace.id).get(ids, scope) if ids else {}
        return [cover or self._made(one, _of(one, notes), serving) for one, cover in zip(taken, known, strict=True)]

    def live(self, scope: Scope, sources: Collection[Source]) -> set[Source]:
        """Return which note versions still stand, unchanged, within a scope."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return set()
            return ActivationRepository(connection, namespace.id).live(sources, scope, now_us())

    def fetch(self, scope: Scope, cube_id: str, serving: Serving) -> LayeredKV | None:
        """Begin to load the cache of a cube ahead of its use; ``None`` if it is not live. Raises ``KVMiss``."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            repository = None if namespace is None else ActivationRepository(connection, namespace.id)
            one = None if repository is None else repository.get(cube_id)
            if namespace is None or repository is None or one is None or one.fingerprint != serving.fingerprint:
                return None
            if repository.live(one.sources, scope, now_us()) != set(one.sources):
                return None
            notes = CubeRepository(connection, namespace.id).get([note for note, _ in one.sources], scope)
        return self._reading(scope, self._known(one) or self._made(one, notes.values(), serving), serving)()

    def load(self, scope: Scope, cover: Cover, serving: Serving) -> Loaded:
        """Return the cache of a cover, from host memory or its file. Raises ``KVMiss`` with the reason why not.

        Its layers may still be arriving, where cores are left to load them while the model runs.
        """
        read: list[LayeredKV] = []
        kv = self._hot.get(cover.activation.key, self._loading(scope, cover, serving, read))
        if serving.loaded.device.type == "cpu" and not overlap_pays():
            kv.settle()
        return Loaded(kv, cold=bool(read))

    def prefetch(self, scope: Scope, hits: Sequence[Hit], serving: Serving, most: int) -> None:
        """Begin to load the caches, ``most`` of them, that a chat about these hits would need.

        A miss is found again when it counts.
        """
        for cover in self.covers(scope, hits, serving, most):
            self._hot.prefetch(cover.activation.key, self._loading(scope, cover, serving, []))

    def holds(self, key: str) -> bool:
        """Return whether a cache is in host memory because it was used."""
        return self._hot.holds(key)

    def _loading(self, scope: Scope, cover: Cover, serving: Serving, read: list[LayeredKV]) -> Callable[[], LayeredKV]:
        """Return how to get a cache: from what was prefetched or else from its file; then it is put into ``read``."""
        read_file, key = self._reading(scope, cover, serving), cover.activation.key

        def load_cache() -> LayeredKV:
            staged: LayeredKV | None = self._staging.take((Kind.ACTIVATION, key), (scope.tenant, scope.user_id))
            if staged is not None and staged.failure is None:
                return staged
            read.append(kv := read_file())
            return kv

        return load_cache

    def _reading(self, scope: Scope, cover: Cover, serving: Serving) -> Callable[[], LayeredKV]:
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
            self._staging.drop([(Kind.ACTIVATION, key)])
            self._hot.drop(key)
            with self._lock:
                self._covers.pop(key, None)

    def _known(self, activation: Activation) -> Cover | None:
        known = self._covers.get(activation.key)
        if known is None or known.activation.sources != activation.sources:
            return None
        return Cover(activation, known.bundle, known.tokens)

    def _made(self, activation: Activation, notes: Iterable[MemCube], serving: Serving) -> Cover:
        bundle = bundle_of(map(note_of, notes))
        cover = Cover(activation, bundle, (*serving.format.head, *bundle.tokens(serving.format.encode_text)))
        with self._lock:
            self._covers[cover.activation.key] = cover
            while len(self._covers) > REMEMBERED:
                self._covers.pop(next(iter(self._covers)))
        return cover


def _of(activation: Activation, notes: Mapping[str, MemCube]) -> list[MemCube]:
    return [notes[cube_id] for cube_id, _ in activation.sources if cube_id in notes]
