"""Plans, carries out, records and takes back moves between tiers.

plan -> carry out: a demotion is done at once, a promotion is a job; each is an audit row of the same transaction
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memos.activation.bundle import note_of
from memos.activation.tier import ActivationTier
from memos.clock import from_us, now_us, to_us
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.errors import Conflict, NotFound
from memos.ids import new_id
from memos.receipts.receipt import DeletionReceipt
from memos.runtime.host import ModelHost, Serving
from memos.schedule.heat import Cooling
from memos.schedule.moving.bundles import Bundling, HotNote
from memos.schedule.moving.costs import Costs, prefill_seconds
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.planner import Planner, Resident, Situation
from memos.store import namespaces
from memos.store.activations import Activation, ActivationRepository
from memos.store.behaviour import BehaviourRepository
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.jobs import FINAL, FUSE, PROMOTE, Job
from memos.store.links import LinkRepository
from memos.store.moves import MoveRepository, moving

#: Memories of one user that a plan looks at: the hottest.
MOST_NOTES = 1_000


@dataclass(frozen=True, slots=True)
class _Known:
    """What one read of a namespace found."""

    notes: Sequence[MemCube]
    linked: dict[str, set[str]]
    activations: Sequence[Activation]
    heats: dict[str, float]
    used_at: dict[str, int]
    kept: set[str]
    bytes: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class Hands:
    """How the engine moves, and what it says of a job."""

    promote: Callable[..., Job]
    demote: Callable[..., DeletionReceipt]
    fuse: Callable[[Scope, Sequence[Move]], Sequence[Move]]
    split: Callable[[Scope, Move], Move]
    job: Callable[[str, str], Job]


class Mover:
    """The scheduler's moves of one engine."""

    def __init__(
        self, settings: Settings, database: Database, models: ModelHost, activation: ActivationTier, hands: Hands
    ) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._activation = activation
        self._hands = hands
        self._cooling = Cooling.days(settings.heat_half_life_days)
        self._bundling = Bundling(settings.bundle_min_tokens, settings.chat_memory_tokens)
        self._prefill_s: float | None = None

    # ------------------------------------------------------------ plans

    def plan(self, scope: Scope) -> list[Move]:
        """Return what would be moved now, and why. Raises ``ModelUnavailable`` where something was used."""
        now = now_us()
        known = self._known(scope, now)
        if known is None or not self._may_pay(known, now):
            return []
        serving = self._models.serving()
        planner = Planner(self._cooling, self._costs(known, serving), self._bundling, self._settings.eviction)
        return planner.plan(
            Situation(
                [self._hot(cube, serving, now) for cube in known.notes],
                known.linked,
                [self._resident(one, known, serving) for one in known.activations],
                self._room(known),
                now,
            )
        )

    def carry_out(self, scope: Scope, moves: Iterable[Move]) -> list[Move]:
        """Move; return what was moved, with ids. What cannot be moved any more ends it with its error."""
        return [self._carried_out(scope, move) for move in moves]

    # ------------------------------------------------------------ records

    def moves(self, scope: Scope) -> list[Move]:
        """Return every move of a namespace, oldest first."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            rows = [] if namespace is None else MoveRepository(connection, namespace.id).all()
        return [Move.model_validate({**detail, "created_at": from_us(at)}) for detail, at in rows]

    def undo(self, scope: Scope, move_id: str) -> list[Move]:
        """Take a move back; return the moves that do. Raises :class:`NotFound` and :class:`Conflict`.

        What was demoted is made again from its memories, as they are now. Of a promotion the cube is demoted. What was
        fused is split, and what was split is fused again.
        """
        moves = self.moves(scope)
        move = next((one for one in moves if one.id == move_id), None)
        if move is None:
            raise NotFound(f"no move {move_id!r} here")
        if any(one.undoes == move_id for one in moves):
            raise Conflict(f"move {move_id!r} was taken back before")
        if move.action is Action.FUSE:
            return [self._hands.split(scope, move)]
        if move.action is Action.SPLIT:
            again = {"action": Action.FUSE, "cube_id": None, "undoes": move_id, "reason": f"takes back: {move.reason}"}
            return list(self._hands.fuse(scope, [move.model_copy(update=again)]))
        if move.action is Action.DEMOTE:
            action, cube_id = Action.PROMOTE, None
        else:
            action, cube_id = Action.DEMOTE, self._made_by(scope, move)
        update = {"action": action, "cube_id": cube_id, "undoes": move_id, "reason": f"takes back: {move.reason}"}
        return [self._carried_out(scope, move.model_copy(update=update))]

    # ------------------------------------------------------------ inside

    def _carried_out(self, scope: Scope, move: Move) -> Move:
        made = move.model_copy(update={"id": new_id(), "created_at": None})
        with moving(made.model_dump(mode="json", exclude={"created_at"})):
            if made.action is Action.DEMOTE:
                self._hands.demote(scope.tenant, made.cube_id, user_id=scope.user_id)
                return made
            ids = [source.cube_id for source in made.sources]
            job = self._hands.promote(scope.tenant, ids, to=made.tier.value, user_id=scope.user_id, codec=made.codec)
        return made.model_copy(update={"job_id": job.id})

    def _made_by(self, scope: Scope, move: Move) -> str:
        """Return the cube that a promotion came to."""
        job = self._hands.job(scope.tenant, str(move.job_id))
        if job.state not in FINAL:
            raise Conflict(f"move {move.id!r} is still under way: wait for job {job.id!r}, or cancel it")
        if job.result is None:
            raise Conflict(f"move {move.id!r} came to nothing: {job.error}")
        if not job.result["made"]:
            raise Conflict(f"move {move.id!r} made nothing: there was such a file before")
        return str(job.result["cube_id"])

    def _known(self, scope: Scope, now: int) -> _Known | None:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            if namespace is None:
                return None
            moves = MoveRepository(connection, namespace.id)
            under_way = moves.under_way((PROMOTE, FUSE))
            ids = [cube_id for cube_id in moves.hottest(MOST_NOTES, now) if cube_id not in under_way]
            notes = CubeRepository(connection, namespace.id).get(ids, Scope(tenant=scope.tenant, user_id=scope.user_id))
            repository = ActivationRepository(connection, namespace.id)
            activations, totals = repository.all(), repository.totals()
            used = {one.cube_id for one in activations} | {source[0] for one in activations for source in one.sources}
            heats = BehaviourRepository(connection, namespace.id).of(sorted(used))
            linked: dict[str, set[str]] = {}
            for link in LinkRepository(connection, namespace.id).touching(ids):
                linked.setdefault(link.source_id, set()).add(link.target_id)
                linked.setdefault(link.target_id, set()).add(link.source_id)
            return _Known(
                list(notes.values()),
                linked,
                activations,
                {cube_id: self._cooling.heat(heat, as_of, now) for cube_id, (heat, as_of) in heats.items()},
                {cube_id: as_of for cube_id, (_, as_of) in heats.items() if as_of is not None},
                moves.kept(),
                totals["bytes"],
                totals["raw_bytes"],
            )

    def _may_pay(self, known: _Known, now: int) -> bool:
        """Whether a plan could come to anything, told without the model: a file is made for two uses at least."""
        half_life_s = self._cooling.half_life_us / 1e6
        hot = any(self._cooling.uses(self._heat(cube, now), half_life_s) > 1 for cube in known.notes)
        return hot or self._room(known) < 0

    def _heat(self, cube: MemCube, now: int) -> float:
        return self._cooling.heat(cube.behaviour.heat, _used_at(cube), now)

    def _hot(self, cube: MemCube, serving: Serving, now: int) -> HotNote:
        length = len(serving.format.encode_text(note_of(cube).line))
        return HotNote(cube.id, cube.version, self._heat(cube, now), length, cube.scope.run_id, _used_at(cube))

    def _resident(self, one: Activation, known: _Known, serving: Serving) -> Resident:
        """Describe a KV file; as hot as its own uses or, before it had time for any, as its memories are."""
        inside = [known.heats.get(cube_id, 0.0) for cube_id, _ in one.sources]
        used = {one.cube_id, *(cube_id for cube_id, _ in one.sources)} & known.used_at.keys()
        heat = max(known.heats.get(one.cube_id, 0.0), sum(inside) / max(1, len(inside)))
        usable = one.fingerprint == serving.fingerprint
        return Resident(
            one.cube_id,
            heat if usable else 0.0,
            one.tokens - one.head_tokens,
            one.bytes,
            one.codec,
            one.sources,
            one.created_at,
            max([one.created_at, *(known.used_at[cube_id] for cube_id in used)]),
            kept=one.cube_id in known.kept,
        )

    def _room(self, known: _Known) -> int:
        quota, cap = self._settings.quota_kv_bytes, self._settings.kv_bytes
        whole = cap - self._activation.usage()[0]
        return min(whole, quota - known.bytes) if quota else whole

    def _costs(self, known: _Known, serving: Serving) -> Costs:
        """Return what was measured once, with the compression that there was so far."""
        if self._prefill_s is None:
            self._prefill_s = prefill_seconds(serving)
        shrunk = known.bytes / known.raw_bytes if known.raw_bytes else 1.0
        return Costs(self._prefill_s, serving.loaded.shape.bytes(1) * shrunk)


def _used_at(cube: MemCube) -> int | None:
    used = cube.behaviour.last_recalled_at
    return None if used is None else to_us(used)
