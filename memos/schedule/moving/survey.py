"""What is there in a namespace that plans are made from: hot memories, KV files, adapters, and the room for more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memos.activation.bundle import note_of
from memos.activation.tier import ActivationTier
from memos.clock import to_us
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.parametric.tier import ParametricTier
from memos.runtime.host import Serving
from memos.schedule.heat import Cooling
from memos.schedule.moving.bundles import HotNote
from memos.schedule.moving.resident import Resident
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.adapters import AdapterRecord, AdapterRepository, AdapterState
from memos.store.behaviour import BehaviourRepository
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.links import LinkRepository
from memos.store.moves import MoveRepository

#: Memories of one user that a plan looks at: the hottest.
MOST_NOTES = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """What one read of a namespace found, by a time ``now`` (microseconds since the epoch)."""

    now: int
    notes: Sequence[MemCube]
    linked: dict[str, set[str]]
    activations: Sequence[Activation]
    adapters: Sequence[AdapterRecord]
    inside: dict[str, MemCube]
    heats: dict[str, float]
    used_at: dict[str, int]
    kept: set[str]
    under_way: Collection[str]
    kv_bytes: int
    kv_raw_bytes: int
    adapter_bytes: int

    def of_adapters(self, state: AdapterState) -> list[AdapterRecord]:
        """Return the adapters in a state."""
        return [one for one in self.adapters if one.state is state]


class Survey:
    """Looks."""

    def __init__(
        self, settings: Settings, database: Database, activation: ActivationTier, parametric: ParametricTier
    ) -> None:
        self._settings = settings
        self._database = database
        self._activation = activation
        self._parametric = parametric
        self._cooling = Cooling.days(settings.heat_half_life_days)

    def look(self, scope: Scope, now: int) -> Found | None:
        """Read a namespace, ``None`` if there is none."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return None
            moves = MoveRepository(connection, namespace.id)
            under_way = moves.under_way()
            ids = [cube_id for cube_id in moves.hottest(MOST_NOTES, now) if cube_id not in under_way]
            cubes = CubeRepository(connection, namespace.id)
            kv, learnt = ActivationRepository(connection, namespace.id), AdapterRepository(connection, namespace.id)
            activations, adapters, totals = kv.all(), learnt.all(), kv.totals()
            sources = {cube_id for one in activations for cube_id, _ in one.sources}
            higher = {one.cube_id for one in activations} | {one.cube_id for one in adapters}
            sources |= {cube_id for one in adapters for cube_id, _ in one.sources}
            heats = BehaviourRepository(connection, namespace.id).of(sorted(higher | sources))
            linked: dict[str, set[str]] = {}
            for link in LinkRepository(connection, namespace.id).touching(ids):
                linked.setdefault(link.source_id, set()).add(link.target_id)
                linked.setdefault(link.target_id, set()).add(link.source_id)
            return Found(
                now,
                list(cubes.get(ids, scope.whole).values()),
                linked,
                activations,
                adapters,
                cubes.get(sorted(sources), scope.whole),
                {cube_id: self._cooling.heat(heat, as_of, now) for cube_id, (heat, as_of) in heats.items()},
                {cube_id: as_of for cube_id, (_, as_of) in heats.items() if as_of is not None},
                moves.kept(),
                under_way,
                totals["bytes"],
                totals["raw_bytes"],
                sum(one.bytes for one in adapters),
            )

    def hot(self, cube: MemCube, serving: Serving, now: int) -> HotNote:
        """Describe a memory that was used."""
        length = _length(cube, serving)
        used = cube.behaviour.last_recalled_at
        heat = self._cooling.by_now(cube.behaviour, now)
        used_at = None if used is None else to_us(used)
        return HotNote(cube.id, cube.version, heat, length, cube.scope.run_id, used_at)

    def file(self, one: Activation, found: Found, serving: Serving) -> Resident:
        """Describe a KV file."""
        usable = one.fingerprint == serving.fingerprint
        tokens = one.tokens - one.head_tokens
        return self._resident(one, found, tokens, usable=usable, codec=one.codec)

    def adapter(self, one: AdapterRecord, found: Found, serving: Serving) -> Resident:
        """Describe an adapter."""
        held = [found.inside[cube_id] for cube_id, _ in one.sources if cube_id in found.inside]
        tokens = sum(_length(cube, serving) for cube in held)
        return self._resident(one, found, tokens, usable=one.base == serving.loaded.identity.base, codec=None)

    def kv_room(self, found: Found) -> int:
        """Return the bytes of KV files that may be added, negative if there are too many."""
        return _room(
            self._settings.kv_bytes - self._activation.usage()[0], self._settings.quota_kv_bytes, found.kv_bytes
        )

    def adapter_room(self, found: Found) -> int:
        """Return the bytes of adapters that may be added, negative if there are too many."""
        whole = self._settings.adapter_bytes - self._parametric.usage()
        return _room(whole, self._settings.quota_adapter_bytes, found.adapter_bytes)

    def _resident(
        self, one: Activation | AdapterRecord, found: Found, tokens: int, *, usable: bool, codec: str | None
    ) -> Resident:
        """Describe a cube; as hot as its own uses or, before it had time for any, as its memories are."""
        inside = [found.heats.get(cube_id, 0.0) for cube_id, _ in one.sources]
        used = {one.cube_id, *(cube_id for cube_id, _ in one.sources)} & found.used_at.keys()
        heat = max(found.heats.get(one.cube_id, 0.0), sum(inside) / max(1, len(inside)))
        return Resident(
            one.cube_id,
            heat if usable else 0.0,
            tokens,
            one.bytes,
            codec,
            one.sources,
            one.created_at,
            max([one.created_at, *(found.used_at[cube_id] for cube_id in used)]),
            kept=one.cube_id in found.kept,
        )


def _room(whole: int, quota: int, taken: int) -> int:
    return min(whole, quota - taken) if quota else whole


def _length(cube: MemCube, serving: Serving) -> int:
    return len(serving.format.encode_text(note_of(cube).line))
