"""A store that changes all the time answers as a store that was just opened does."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS

if TYPE_CHECKING:
    from memos.embedding.base import Embedder

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SIZE = 20_000 if SOAK else 600
SCOPE = Scope(user_id="u")
WORDS = [f"{start}{end}" for start in "bcdfghklmnprstv" for end in ("amber", "irch", "elta", "ord")]


def turns(dice: random.Random, count: int) -> list[dict[str, Any]]:
    """Make turns of a few sessions."""
    return [
        {
            "text": f"Ann: {' '.join(dice.choices(WORDS, k=dice.randint(2, 20)))} {dice.random()}",
            "run_id": f"session {dice.randrange(SIZE // 20)}",
        }
        for _ in range(count)
    ]


def churn(engine: MemoryOS, dice: random.Random) -> None:
    """Fill the store, changing and forgetting on the way."""
    alive: list[str] = []
    step = SIZE // 40
    for _ in range(40):
        alive += [cube.id for cube in engine.store_many(SCOPE, turns(dice, step))]
        for cube_id in dice.sample(alive, step // 5):
            engine.update(SCOPE.tenant, cube_id, text=turns(dice, 1)[0]["text"])
        for cube_id in dice.sample(alive, step // 5):
            engine.forget(SCOPE.tenant, cube_id)
            alive.remove(cube_id)
        engine.recall(SCOPE, " ".join(dice.choices(WORDS, k=3)))


def answers(engine: MemoryOS) -> list[list[tuple[str, float]]]:
    """Ask the same questions, of the views: an index that is approximate may differ."""
    dice = random.Random(1)
    asked = [" ".join(dice.choices(WORDS, k=4)) for _ in range(30)]
    everything = {"run_id": {"$ne": "none"}}  # a filter makes recall scan
    found = [engine.recall(SCOPE, text, top_k=20, filters=everything).hits for text in asked]
    return [[(hit.id, hit.score) for hit in hits] for hits in found]


@pytest.mark.timeout(1_200 if SOAK else 120)
def test_churned_view_equals_fresh_view(data_folder: Path, embedder: Embedder) -> None:
    """The view that followed every change ranks like one loaded at once, and so do index and SQL."""
    dice = random.Random()
    settings = Settings(home=data_folder, index_threshold=SIZE // 4)
    with MemoryOS(settings, embedder) as engine:
        churn(engine, dice)
        engine.relay.drain()
        followed = answers(engine)
        (name,) = engine.index.names()
        assert engine.index.size(name) == engine.stats(SCOPE).memories == SIZE - SIZE // 5
    with MemoryOS(settings, embedder) as engine:
        loaded = answers(engine)
    for one, other in zip(followed, loaded, strict=True):
        check_same(one, other)


def check_same(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> None:
    """Compare two rankings; only memories whose scores differ by rounding may have changed places."""
    assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=1e-5)
    ours, theirs = dict(one), dict(other)
    for key in ours.keys() | theirs.keys():
        last = one[-1][1]  # who is missing in one of them would have come next
        assert ours.get(key, last) == pytest.approx(theirs.get(key, last), abs=1e-5)


def test_many_threads_write_and_read(engine: MemoryOS) -> None:
    """More threads than connections, none of which starves."""
    start = threading.Barrier(24)

    def work(number: int) -> None:
        start.wait()
        scope = Scope(user_id=f"u{number % 5}")
        for turn in range(100 if SOAK else 10):
            (cube,) = engine.store_many(scope, [{"text": f"worker {number} turn {turn}"}])
            hits = engine.recall(scope, f"worker {number} turn {turn}", top_k=3).hits
            assert cube.id in {hit.id for hit in hits}

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(24)))
