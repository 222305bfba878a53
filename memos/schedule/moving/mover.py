"""Plans, carries out, records and takes back moves between tiers.

plan -> carry out: a demotion is done at once, a promotion is a job; each is an audit row of the same transaction
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from memos.activation.tier import ActivationTier
from memos.clock import from_us, now_us
from memos.config import Settings
from memos.cube import Scope
from memos.errors import Conflict, NotFound
from memos.ids import new_id
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.recipe import Recipe
from memos.parametric.tier import ParametricTier
from memos.receipts.receipt import DeletionReceipt
from memos.runtime.host import ModelHost, Serving
from memos.schedule.heat import Cooling
from memos.schedule.moving.bundles import Bundling
from memos.schedule.moving.costs import AdapterCosts, Costs, adapter_size, prefill_seconds
from memos.schedule.moving.learning import AdapterPlanner, Learning
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.planner import Planner, Situation
from memos.schedule.moving.resident import Resident
from memos.schedule.moving.survey import Found, Survey
from memos.store import namespaces
from memos.store.adapters import AdapterState
from memos.store.database import Database
from memos.store.jobs import FINAL, Job
from memos.store.moves import MoveRepository, moving


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
        self,
        settings: Settings,
        database: Database,
        models: ModelHost,
        tiers: tuple[ActivationTier, ParametricTier],
        hands: Hands,
    ) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._survey = Survey(settings, database, *tiers)
        self._hands = hands
        self._cooling = Cooling.days(settings.heat_half_life_days)
        self._bundling = Bundling(settings.bundle_min_tokens, settings.chat_memory_tokens)
        self._prefill_s: float | None = None

    # ------------------------------------------------------------ plans

    def plan(self, scope: Scope) -> list[Move]:
        """Return what would be moved now, and why. Raises ``ModelUnavailable`` where something was used."""
        found = self._survey.look(scope, now_us())
        if found is None or not self._may_pay(found):
            return []
        serving = self._models.serving()
        planner = Planner(self._cooling, self._costs(found, serving), self._bundling, self._settings.eviction)
        files = [self._survey.file(one, found, serving) for one in found.activations]
        adapters = [self._survey.adapter(one, found, serving) for one in found.of_adapters(AdapterState.PUBLISHED)]
        moves = self._filed(planner, files, adapters, found, serving)
        return moves + self._learnt(planner, files, adapters, found, serving) if self._settings.plan_adapters else moves

    def _filed(
        self, planner: Planner, files: list[Resident], adapters: list[Resident], found: Found, serving: Serving
    ) -> list[Move]:
        """Return the moves to and from KV files; what an adapter holds needs none, where those are planned."""
        notes = [self._survey.hot(cube, serving, found.now) for cube in found.notes]
        held = {cube_id for one in adapters for cube_id in one.memories} if self._settings.plan_adapters else set()
        return planner.plan(Situation(notes, found.linked, files, self._survey.kv_room(found), found.now, held))

    def _learnt(
        self, planner: Planner, files: list[Resident], adapters: list[Resident], found: Found, serving: Serving
    ) -> list[Move]:
        """Return the moves to and from adapters."""
        recipe = Recipe()
        costs = AdapterCosts(planner.costs.prefill_s, adapter_size(serving, recipe), recipe.facts)
        free = [one for one in files if not one.memories & set(found.under_way)]
        return AdapterPlanner(self._cooling, costs, planner.worth).plan(
            Learning(
                free,
                {one.cube_id: _facts(one, found) for one in free},
                adapters,
                {frozenset(cube_id for cube_id, _ in one.sources) for one in found.of_adapters(AdapterState.REJECTED)},
                self._survey.adapter_room(found),
                found.now,
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

    def _may_pay(self, found: Found) -> bool:
        """Whether a plan could come to anything, told without the model: a file is made for two uses at least."""
        half_life_s = self._cooling.half_life_us / 1e6
        heats = (self._cooling.by_now(cube.behaviour, found.now) for cube in found.notes)
        hot = any(self._cooling.uses(heat, half_life_s) > 1 for heat in heats)
        return hot or min(self._survey.kv_room(found), self._survey.adapter_room(found)) < 0

    def _costs(self, found: Found, serving: Serving) -> Costs:
        """Return what was measured once, with the compression that there was so far."""
        if self._prefill_s is None:
            self._prefill_s = prefill_seconds(serving)
        shrunk = found.kv_bytes / found.kv_raw_bytes if found.kv_raw_bytes else 1.0
        return Costs(self._prefill_s, serving.loaded.shape.bytes(1) * shrunk)


def _facts(one: Resident, found: Found) -> int:
    """Return how many facts the memories of a KV file hold, 0 unless each holds some."""
    cubes = [found.inside[cube_id] for cube_id in sorted(one.memories) if cube_id in found.inside]
    facts = facts_of(cubes)
    whole = {fact.cube_id for fact in facts} == one.memories
    return len(facts) if whole else 0
