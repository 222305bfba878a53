"""What is chosen for a prompt: pure functions of sizes and costs."""

from __future__ import annotations

import pytest

from memos.activation.compose.covering import MOST, disjoint
from memos.activation.compose.planner import LEAST, Costs, choose
from memos.schedule.moving.costs import READ_BYTES_PER_S
from memos.store.activations import Activation

COSTS = Costs(token=2e-3, layers=30, bytes=46_080)


def cube(name: str, *notes: str, tokens: int = 100) -> Activation:
    return Activation(
        cube_id=name,
        key=name,
        fingerprint="f",
        codec="raw",
        tokens=tokens,
        head_tokens=20,
        bytes=1,
        raw_bytes=1,
        sha256="",
        created_at=0,
        sources=tuple((note, 1) for note in notes),
    )


def names(cubes: list[Activation]) -> list[str]:
    return [one.cube_id for one in cubes]


def test_cubes_are_disjoint_and_the_best_comes_first() -> None:
    cubes = [cube("one", "a"), cube("three", "b", "c", "d"), cube("clash", "a", "b"), cube("other", "e", "x")]
    wanted = {"a", "b", "c", "d", "e"}
    assert names(disjoint(cubes, wanted, 1_000, MOST)) == ["three", "one", "other"]
    assert names(disjoint(cubes, wanted, 1_000, 1)) == ["three"]


def test_cubes_mostly_about_other_things_are_left_out() -> None:
    assert disjoint([cube("far", "a", "x", "y")], {"a", "b", "c"}, 1_000, MOST) == []
    assert names(disjoint([cube("near", "a", "b", "x", "y", "z")], {"a", "b", "c"}, 1_000, MOST)) == ["near"]


def test_room_is_not_exceeded() -> None:
    cubes = [cube("big", "a", "b", tokens=200), cube("small", "c", tokens=50)]
    assert names(disjoint(cubes, {"a", "b", "c"}, 100, MOST)) == ["small"]


def test_many_bundles_are_blended_and_one_is_not() -> None:
    blended = choose([200] * 10, 0, exact=False, costs=COSTS)
    assert (blended.mode, blended.ratio) == ("blend", LEAST)
    assert blended.seconds < 0.35 * COSTS.token * 2_000
    assert choose([2_000], 0, exact=True, costs=COSTS).mode == "prefix"


def test_small_rest_behind_an_exact_cache_is_computed() -> None:
    assert choose([1_900, 50], 0, exact=True, costs=COSTS).mode == "prefix"


@pytest.mark.parametrize(("seconds", "ratio"), [(0.1, LEAST), (1.0, 0.25), (9.0, 1.0)])
def test_as_much_is_recomputed_as_loading_takes(seconds: float, ratio: float) -> None:
    chosen = choose([500, 1_500], round(seconds * READ_BYTES_PER_S), exact=False, costs=COSTS)
    if chosen.mode == "blend":
        assert chosen.ratio == pytest.approx(ratio)
    else:
        assert seconds > 1
