"""Variants of bundles: their caches as they stood behind other bundles, in earlier prompts of one user.

They live in host memory alone, in part of its room for KV caches, and end with the process. A variant's values depend
on every bundle that stood before it, and on those that stood before these when their variants were made: it may serve
only while the notes of all of them stand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from memos.activation.compose.scores import Paid, fit
from memos.activation.hot import HotFiles
from memos.activation.kv import KVBlock
from memos.store.lineage import Source

#: The most variants of one bundle, and their share of the host memory for caches.
EACH, SHARE = 4, 0.5
#: Added to a share of recomputed tokens that divides: a variant that serves as it is does not count for ever.
LEAST = 0.01

#: Which of some note versions still hold, for whoever asks.
Live = Callable[[Collection[Source]], Collection[Source]]


@dataclass(frozen=True, eq=False)
class Variant:
    """The cache ``kv`` of a bundle alone, from position ``first`` on, behind the bundles of ``context``, in order.

    Bundles by identity. ``paid`` is what its tokens paid to the context. ``bundles`` and ``sources`` are all bundles,
    and the note versions in them, that its values depend on, its own among them.
    """

    bundle: str
    context: tuple[str, ...]
    first: int
    kv: KVBlock
    paid: Paid
    bundles: frozenset[str]
    sources: frozenset[Source]

    @property
    def bytes(self) -> int:
        """The size in memory."""
        return self.kv.data.nbytes + self.paid.bytes

    @cached_property
    def impact(self) -> float:
        """How much its context counts (CCI)."""
        return self.paid.impact

    def fit(self, context: Sequence[str]) -> float:
        """Return how much of its context is there again (``beta'``)."""
        return fit(self.paid, self.context, context)

    def outlay(self, context: Sequence[str]) -> float:
        """Return ``CFO / alpha`` behind another context."""
        return self.impact * (1 - self.fit(context))


@dataclass(slots=True)
class _Kept:
    variant: Variant
    worth: float


class Variants:
    """The variants of all users of a process, by user and bundle: bounded per bundle and in bytes.

    What goes first has been reused least often for what it still cost: uses count ``1 / CFO`` (Cache-Craft, section 4).
    As in GDSF, the worth of what went last is where others begin, so that what was used long ago goes in the end.
    """

    def __init__(self, hot: HotFiles) -> None:
        self._hot = hot
        self._limit = int(hot.limit * SHARE)
        self._kept: dict[tuple[str, str], list[_Kept]] = {}
        self._bytes = 0
        self._gone = 0.0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """The memory held."""
        return self._bytes

    def of(self, owner: str, bundles: Iterable[str]) -> list[Variant]:
        """Return the variants of a user's bundles, the oldest first."""
        with self._lock:
            return [kept.variant for bundle in bundles for kept in self._kept.get((owner, bundle), ())]

    def put(self, owner: str, variant: Variant) -> None:
        """Keep a variant in place of one of the same context, and let go of others to stay within bounds."""
        with self._lock:
            kept = self._kept.setdefault((owner, variant.bundle), [])
            same = [one for one in kept if one.variant.context == variant.context]
            kept[:] = [one for one in kept if one not in same]
            kept.append(_Kept(variant, max([self._gone + 1, *(one.worth for one in same)])))
            self._bytes += variant.bytes - sum(one.variant.bytes for one in same)
            if len(kept) > EACH:
                self._evict(kept[:-1])
            while self._bytes > self._limit:
                self._evict([one for some in self._kept.values() for one in some])
            self._settle()

    def count(self, owner: str, variant: Variant, share: float) -> None:
        """Record that a variant was reused, ``share`` (CFO) of it being computed anew."""
        with self._lock:
            for one in self._kept.get((owner, variant.bundle), ()):
                if one.variant is variant:
                    one.worth = max(one.worth, self._gone) + 1 / (LEAST + share)

    def forget(self, bundles: Collection[str]) -> None:
        """Let go of every variant whose values depend on one of these bundles, whosever it is."""
        gone = set(bundles)
        self._drop(lambda one: not gone.isdisjoint(one.bundles))

    def drop(self, variants: Iterable[Variant]) -> None:
        """Let go of some variants."""
        gone = {id(one) for one in variants}
        self._drop(lambda one: id(one) in gone)

    def drop_all(self) -> None:
        """Let go of all."""
        self._drop(lambda one: True)

    # ------------------------------------------------------------ inside

    def _drop(self, which: Callable[[Variant], bool]) -> None:
        with self._lock:
            for kept in self._kept.values():
                kept[:] = [one for one in kept if not which(one.variant)]
            self._bytes = sum(one.variant.bytes for kept in self._kept.values() for one in kept)
            self._settle()

    def _evict(self, among: Sequence[_Kept]) -> None:
        least = min(among, key=lambda one: one.worth)
        self._gone = max(self._gone, least.worth)
        self._bytes -= least.variant.bytes
        for kept in self._kept.values():
            kept[:] = [one for one in kept if one is not least]

    def _settle(self) -> None:
        self._kept = {key: kept for key, kept in self._kept.items() if kept}
        self._hot.lend(self._bytes)


@dataclass(frozen=True, slots=True)
class OwnVariants:
    """The variants of one user as one request may use them: those whose every note is ``live``."""

    variants: Variants
    owner: str
    live: Live

    def of(self, bundles: Iterable[str]) -> list[Variant]:
        """Return the variants of bundles that may serve."""
        found = self.variants.of(self.owner, bundles)
        return [one for one, holds in zip(found, self._hold(found), strict=True) if holds]

    def put(self, made: Sequence[Variant]) -> None:
        """Keep what was made, unless a note of it was forgotten meanwhile.

        Asked after they are in: a note that goes from then on takes them along (:meth:`Variants.forget`).
        """
        for one in made:
            self.variants.put(self.owner, one)
        self.variants.drop([one for one, holds in zip(made, self._hold(made), strict=True) if not holds])

    def count(self, variant: Variant, share: float) -> None:
        """Record a use."""
        self.variants.count(self.owner, variant, share)

    def _hold(self, variants: Sequence[Variant]) -> list[bool]:
        sources = {source for one in variants for source in one.sources}
        live = set(self.live(sources)) if sources else set()
        return [live.issuperset(one.sources) for one in variants]
