"""What is worth training: checked on numbers alone."""

from __future__ import annotations

from memos.cube import Kind
from memos.schedule.heat import Cooling
from memos.schedule.moving.costs import TRAINING_TOKENS, AdapterCosts, Costs
from memos.schedule.moving.learning import AdapterPlanner, Learning
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.resident import Resident
from memos.schedule.moving.worth import Worth

COOLING = Cooling.days(7)
FILES = Costs(prefill_s=2e-3, token_bytes=40_000)
COSTS = AdapterCosts(prefill_s=2e-3, size=5_000_000, facts=8)
PLANNER = AdapterPlanner(COOLING, COSTS, Worth(Kind.ACTIVATION, COOLING, FILES.saved))
PLENTY = 10**12
#: Heat of a file of 200 tokens whose uses save what training takes: uses = heat * ln 2.
ENOUGH = TRAINING_TOKENS / 200 / 0.69


def file(name: str, heat: float = 2 * ENOUGH, tokens: int = 200, *, kept: bool = False) -> Resident:
    return Resident(name, heat, tokens, FILES.bytes(tokens), "raw", ((f"in {name}", 1),), kept=kept)


def adapter(name: str, heat: float, *inside: str, kept: bool = False) -> Resident:
    sources = tuple((f"in {one}", 1) for one in inside or (name,))
    return Resident(name, heat, 200, COSTS.size, None, sources, kept=kept)


def plan(
    *files: Resident,
    facts: int = 8,
    adapters: tuple[Resident, ...] = (),
    refused: tuple[frozenset[str], ...] = (),
    room: int = PLENTY,
) -> list[Move]:
    return PLANNER.plan(Learning(files, {one.cube_id: facts for one in files}, adapters, refused, room))


def test_what_is_used_more_than_training_takes_is_trained() -> None:
    assert plan(file("a", 0.9 * ENOUGH)) == []
    (move,) = plan(file("a", 1.1 * ENOUGH))
    assert (move.action, move.tier, move.bytes, move.cube_id) == (Action.PROMOTE, Kind.PARAMETRIC, COSTS.size, None)
    assert [source.cube_id for source in move.sources] == ["in a"]
    assert move.uses * move.seconds_saved > COSTS.training_s
    assert f"1 memories of a file of 8.0 MB: {move.uses:.1f} uses" in move.reason


def test_an_adapter_has_to_take_fewer_bytes_than_the_file() -> None:
    assert plan(file("a", 100 * ENOUGH, tokens=100)) == []  # 4 MB, and an adapter takes 5


def test_what_cannot_be_learnt_whole_by_one_adapter_stays_a_file() -> None:
    assert plan(file("a"), facts=0) == []
    assert plan(file("a"), facts=9) == []


def test_what_a_gate_refused_is_not_trained_again() -> None:
    assert plan(file("a"), refused=(frozenset({"in a"}),)) == []
    assert len(plan(file("a"), refused=(frozenset({"in a", "in b"}),))) == 1


def test_a_file_goes_when_an_adapter_holds_all_of_it() -> None:
    (move,) = plan(file("a"), adapters=(adapter("x", 1.0, "a", "b"),))
    assert (move.action, move.tier, move.cube_id, move.codec) == (Action.DEMOTE, Kind.ACTIVATION, "a", "raw")
    assert "which an adapter holds" in move.reason
    assert plan(file("a", kept=True), adapters=(adapter("x", 1.0, "a"),)) == []


def test_adapters_worth_less_make_room_and_kept_ones_stay() -> None:
    cold, hot = adapter("cold", 0.1), adapter("hot", 1e6)
    moves = plan(file("a"), adapters=(cold, hot), room=0)
    assert [(move.action, move.tier) for move in moves] == [
        (Action.DEMOTE, Kind.PARAMETRIC),
        (Action.PROMOTE, Kind.PARAMETRIC),
    ]
    assert moves[0].cube_id == "cold"
    assert plan(file("a"), adapters=(hot,), room=0) == []
    assert plan(file("a"), adapters=(adapter("cold", 0.1, kept=True),), room=0) == []


def test_too_many_bytes_are_given_up_first() -> None:
    moves = plan(adapters=(adapter("cold", 0.1), adapter("warm", 1.0), adapter("hot", 2.0)), room=-COSTS.size - 1)
    assert [move.cube_id for move in moves] == ["cold", "warm"]


def test_best_comes_first() -> None:
    moves = plan(file("a", 2 * ENOUGH), file("b", 3 * ENOUGH), room=COSTS.size)
    assert [[source.cube_id for source in move.sources] for move in moves] == [["in b"]]
