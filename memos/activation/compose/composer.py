"""Composition for the chats of one store: may the model be blended, which mode serves, and the cache before a prompt.

This module stays light: torch loads with the model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from memos.activation.compose.covering import MOST, covers_enough
from memos.activation.compose.names import PREFIX
from memos.activation.compose.planner import Costs, choose
from memos.activation.miss import KVMiss
from memos.clock import now_us
from memos.cube import Scope
from memos.errors import ModelUnsupported, PromptTooLong
from memos.runtime.host import Serving, owner_of
from memos.store import compositions
from memos.store.compositions import Composition
from memos.store.database import Database

if TYPE_CHECKING:
    from memos.activation.compose.base import Stage
    from memos.activation.compose.variants import Variants
    from memos.activation.kv import KVSource
    from memos.activation.reuse import Cover, Loaded, Reuse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The cubes whose caches begin a prompt, in order, and how they are put together."""

    covers: tuple[Cover, ...] = ()
    mode: str = PREFIX
    ratio: float = 0.0

    @property
    def tokens(self) -> tuple[int, ...]:
        """The head and all bundles; none without cubes."""
        later = tuple(token for cover in self.covers[1:] for token in cover.memory)
        return self.covers[0].tokens + later if self.covers else ()


@dataclass(frozen=True, slots=True)
class Ready:
    """The cache before a prompt; ``recomputed`` counts, bundle by bundle, the tokens that were computed anew."""

    kv: KVSource
    loaded: tuple[Loaded, ...]
    recomputed: tuple[int, ...]
    compose_ms: float


class CubeMiss(KVMiss):
    """The cache of one of several cubes could not be read."""

    def __init__(self, cube_id: str, miss: KVMiss) -> None:
        super().__init__(miss.reason, miss.message)
        self.cube_id = cube_id


class Composer:
    """One for each store."""

    def __init__(self, database: Database, reuse: Reuse, variants: Variants, *, enabled: bool) -> None:
        self._database = database
        self._reuse = reuse
        self._variants = variants
        self._enabled = enabled
        self._known: dict[str, Composition] = {}
        self._checking = threading.Lock()

    # ------------------------------------------------------------ the model's check

    def recorded(self, serving: Serving) -> Composition | None:
        """Return what was measured of a model, if it was."""
        known = self._known.get(serving.fingerprint)
        if known is None:
            with self._database.read() as connection:
                known = compositions.get(connection, serving.fingerprint)
            if known is not None:
                self._known[serving.fingerprint] = known
        return known

    def check(self, serving: Serving) -> Composition:
        """Return what is on record of a model; measure it first if nothing is."""
        with self._checking:
            if (known := self.recorded(serving)) is not None:
                return known
            measured = _measured(serving)
            with self._database.write() as connection:
                compositions.put(connection, measured)
            if measured.refusal is not None:
                logger.warning("%s is not served composed prompts: %s", measured.name, measured.refusal)
            return measured

    def ensure(self, serving: Serving) -> None:
        """See to it that a model that may have to compose was checked, where composing is not switched off."""
        if self._enabled:
            self.check(serving)

    # ------------------------------------------------------------ one prompt

    def most(self, serving: Serving, mode: str | None = None) -> int:
        """Return how many cubes may begin a prompt: one, for a model that was not checked, or failed, or if asked."""
        return MOST if mode != PREFIX and self._may_compose(serving) else 1

    def plan(
        self, covers: Sequence[Cover], wanted: Sequence[str], serving: Serving, mode: str | None, ratio: float | None
    ) -> Plan:
        """Return how cubes, no more than :meth:`most`, serve a prompt about the ``wanted`` memories.

        ``mode`` and ``ratio`` as the caller asked for, None leaves them to what costs least.
        """
        exact = bool(covers) and covers_enough(covers[0].activation, wanted)
        alone = Plan(tuple(covers[:1]) if exact else ())
        if len(covers) < 2:
            return alone
        whole = _whole(covers)
        if len(whole) < 2 or (exact and whole[0] is not covers[0]):
            return alone
        chosen = choose(
            [len(cover.memory) for cover in whole],
            sum(one.activation.bytes for one in whole if not self._reuse.holds(one.activation.key)),
            exact=exact,
            costs=_costs(serving),
        )
        if mode is None and chosen.mode == PREFIX:
            return alone
        return Plan(tuple(whole), mode or chosen.mode, chosen.ratio if ratio is None else ratio)

    def ready(self, scope: Scope, plan: Plan, question: Sequence[int], serving: Serving) -> Ready:
        """Return the cache of a plan that has cubes. Raises :class:`CubeMiss`."""
        loaded = [self._load(scope, cover, serving) for cover in plan.covers]
        if plan.mode == PREFIX:
            return Ready(loaded[0].kv, tuple(loaded), (0,), 0.0)
        from memos.activation.compose.modes import compose, make_mode
        from memos.activation.compose.parts import Part, Parts

        start = time.perf_counter()
        parts = [
            Part(
                name=cover.activation.cube_id,
                tokens=cover.memory,
                kv=one.kv,
                fingerprint=cover.activation.fingerprint,
                sources=cover.activation.sources,
                key=cover.activation.key,
            )
            for cover, one in zip(plan.covers, loaded, strict=True)
        ]
        mode, stage = make_mode(plan.mode, plan.ratio), self._stage(scope, serving)
        made = compose(stage, mode, Parts(serving.format.head, tuple(parts)), question)
        return Ready(made.kv, tuple(loaded), made.recomputed, (time.perf_counter() - start) * 1e3)

    # ------------------------------------------------------------ inside

    def _may_compose(self, serving: Serving) -> bool:
        record = self.recorded(serving) if self._enabled else None
        return record is not None and record.refusal is None

    def _load(self, scope: Scope, cover: Cover, serving: Serving) -> Loaded:
        try:
            return self._reuse.load(scope, cover, serving)
        except KVMiss as miss:
            raise CubeMiss(cover.activation.cube_id, miss) from miss

    def _stage(self, scope: Scope, serving: Serving) -> Stage:
        from memos.activation.compose.base import Stage
        from memos.activation.compose.drift import Drift
        from memos.activation.compose.variants import OwnVariants

        record = self.recorded(serving)
        drift = record.drift if record is not None else None
        shape = serving.loaded.shape
        return Stage(
            serving.loaded,
            serving.runtime,
            None if drift is None else Drift.from_bytes(drift, shape),
            OwnVariants(self._variants, owner_of(scope), partial(self._reuse.live, scope)),
        )


def _measured(serving: Serving) -> Composition:
    from memos.activation.compose.check import check_model

    try:
        checked = check_model(serving)
    except (ModelUnsupported, PromptTooLong) as error:
        return Composition(serving.fingerprint, serving.loaded.name, None, None, error.message, None, now_us())
    return Composition(
        fingerprint=serving.fingerprint,
        name=serving.loaded.name,
        divergence=checked.divergence,
        agreement=checked.agreement,
        refusal=checked.refusal,
        drift=checked.drift.to_bytes(),
        created_at=now_us(),
    )


def _whole(covers: Sequence[Cover]) -> list[Cover]:
    """Return the covers that have a row for every token, without which a cache cannot be moved and mended."""
    from memos.activation.policies import drops_tokens

    return [cover for cover in covers if not drops_tokens(cover.activation.codec)]


def _costs(serving: Serving) -> Costs:
    shape = serving.loaded.shape
    return Costs(serving.runtime.token_seconds, shape.layers, shape.bytes(1))
