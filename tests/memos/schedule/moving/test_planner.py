"""What is worth moving: checked on numbers alone."""

from __future__ import annotations

import random

import pytest

from memos.schedule.heat import Cooling
from memos.schedule.moving.bundles import Bundling, HotNote
from memos.schedule.moving.costs import Costs
from memos.schedule.moving.move import Action, Move
from memos.schedule.moving.planner import Planner, Situation
from memos.schedule.moving.resident import Resident

COSTS = Costs(prefill_s=2e-3, token_bytes=40_000)
PLANNER = Planner(Cooling.days(7), COSTS, Bundling(least=64, most=1_024))
PLENTY = 10**12


def note(name: str, heat: float, tokens: int = 40, session: str | None = None) -> HotNote:
    return HotNote(name, 1, heat, tokens, session)


def resident(name: str, heat: float, tokens: int = 400, *, kept: bool = False) -> Resident:
    return Resident(name, heat, tokens, COSTS.bytes(tokens), "raw", ((f"in {name}", 1),), kept=kept)


def plan(*notes: HotNote, residents: tuple[Resident, ...] = (), room: int = PLENTY, **linked: set[str]) -> list[Move]:
    return PLANNER.plan(Situation(notes, linked, residents, room))


def sources(move: Move) -> set[str]:
    return {source.cube_id for source in move.sources}


# ------------------------------------------------------------ bundles


def test_memories_of_a_session_or_with_links_go_together() -> None:
    notes = [note("a", 9, session="s"), note("b", 8, session="s"), note("c", 7), note("d", 7), note("e", 6)]
    moves = plan(*notes, d={"c"}, c={"d"})
    assert [sources(move) for move in moves] == [{"a", "b"}, {"c", "d"}]  # e alone is too short


def test_memories_of_one_recall_go_together() -> None:
    notes = [HotNote(name, 1, 5.0, 40, None, used_at) for name, used_at in (("a", 7), ("b", 8), ("c", 7), ("d", 7))]
    assert [sources(move) for move in plan(*notes)] == [{"a", "c", "d"}]


def test_lonely_memories_are_put_together_until_they_are_long_enough() -> None:
    (move,) = plan(note("a", 9), note("b", 8), note("c", 7))
    assert sources(move) == {"a", "b"}  # 80 tokens are enough; c would only be carried along


def test_what_is_much_colder_is_not_carried_along() -> None:
    moves = plan(note("a", 40, 100, "s"), note("b", 9, 100, "s"))
    assert [sources(move) for move in moves] == [{"a"}, {"b"}]


def test_a_bundle_is_no_longer_than_a_chat_takes() -> None:
    notes = [note(f"n{number}", 10, 100, "s") for number in range(25)]
    moves = plan(*notes)
    assert [len(move.sources) for move in moves] == [10, 10, 5]
    assert len(set.union(*map(sources, moves))) == 25


# ------------------------------------------------------------ worth


def test_what_is_hardly_used_is_not_worth_making() -> None:
    assert plan(note("a", 1.0, 200)) == []  # 0.7 uses to come save less than computing it once
    (move,) = plan(note("a", 3.0, 200))
    assert (move.action, move.bytes) == (Action.PROMOTE, 8_000_000)
    assert move.seconds_saved == pytest.approx(0.4 - 0.008)
    assert move.uses == pytest.approx(3 * 0.6931, rel=1e-3)
    assert "2.1 uses expected within 7 days, each saves 0.39 s, for 8.0 MB" in move.reason


def test_files_that_take_longer_to_read_than_to_compute_are_not_made() -> None:
    slow = Planner(Cooling.days(7), Costs(prefill_s=1e-5, token_bytes=40_000), Bundling(64, 1_024))
    assert slow.plan(Situation([note("a", 100, 200)], {}, (), PLENTY)) == []


def test_what_is_in_a_file_is_not_moved_again() -> None:
    held = Resident("file", 5, 200, 8_000_000, "raw", (("a", 1),))
    assert plan(note("a", 9, 200), residents=(held,)) == []


# ------------------------------------------------------------ room


def test_the_densest_go_first_into_what_room_there_is() -> None:
    notes = [note("cold", 4, 500), note("hot", 40, 500)]
    (move,) = plan(*notes, room=COSTS.bytes(600))
    assert sources(move) == {"hot"}


def test_files_worth_less_make_room_the_least_valuable_first() -> None:
    residents = (resident("warm", 9), resident("cold", 1), resident("cool", 2), resident("pinned", 0, kept=True))
    moves = plan(note("hot", 20, 500), residents=residents, room=0)
    assert [(move.action, move.cube_id) for move in moves] == [
        (Action.DEMOTE, "cold"),
        (Action.DEMOTE, "cool"),
        (Action.PROMOTE, None),
    ]
    assert "lowest value density" in moves[0].reason
    assert moves[0].codec == "raw"


def test_files_worth_more_stay() -> None:
    assert plan(note("hot", 20, 500), residents=(resident("hotter", 21, 500),), room=0) == []


def test_what_is_too_much_is_given_up_but_nothing_pinned() -> None:
    residents = (resident("pinned", 0, kept=True), resident("warm", 9), resident("cold", 1))
    moves = plan(residents=residents, room=-1)
    assert [move.cube_id for move in moves] == ["cold"]
    assert plan(residents=(resident("pinned", 0, kept=True),), room=-1) == []


@pytest.mark.parametrize("seed", range(20))
def test_plans_keep_within_the_room_and_say_each_thing_once(seed: int) -> None:
    chance = random.Random(seed)
    notes = [
        note(f"n{number}", chance.expovariate(0.1), chance.randint(5, 300), chance.choice(("s", "t", None)))
        for number in range(60)
    ]
    residents = tuple(
        resident(f"r{number}", chance.expovariate(0.1), chance.randint(64, 900), kept=chance.random() < 0.2)
        for number in range(12)
    )
    room = chance.randint(-50, 60) * 10**6
    moves = plan(*notes, residents=residents, room=room)
    given_up = [move for move in moves if move.action is Action.DEMOTE]
    made = [move for move in moves if move.action is Action.PROMOTE]
    kept = {one.cube_id for one in residents if one.kept}
    assert kept.isdisjoint(move.cube_id for move in given_up)
    assert len({move.cube_id for move in given_up}) == len(given_up)
    carried = [source.cube_id for move in made for source in move.sources]
    assert len(set(carried)) == len(carried)
    left = room + sum(move.bytes for move in given_up) - sum(move.bytes for move in made)
    assert left >= 0 or (not made and len(given_up) == len(residents) - len(kept))
    assert moves == plan(*notes, residents=residents, room=room)
