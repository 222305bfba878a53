"""Every policy, and traces to run them on."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence

import pytest

from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.belady import Belady, next_uses
from memos.schedule.eviction.discard import Discard
from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.guarded import Guarded
from memos.schedule.eviction.oracle import discard_bits, flipped, phase_bits, told
from memos.schedule.eviction.phase import Phase
from memos.schedule.eviction.policies import POLICIES, make_policy

Trace = Sequence[Hashable]
Maker = Callable[[int, Trace], Policy]
Run = Callable[[Policy, Trace], list[bool]]


def _registered(name: str) -> Maker:
    return lambda capacity, _: make_policy(name, capacity)


def _discard(capacity: int, trace: Trace, wrong: float = 0.3) -> Policy:
    return Discard(capacity, told(flipped(discard_bits(trace, capacity), wrong)))


def _phase(capacity: int, trace: Trace, wrong: float = 0.3) -> Policy:
    return Phase(capacity, told(flipped(phase_bits(trace, capacity), wrong)))


#: A new policy is tested by a row here, or in the registry.
MATRIX: dict[str, Maker] = {
    **{name: _registered(name) for name in POLICIES},
    "discard": _discard,
    "phase": _phase,
    "guarded discard": lambda capacity, trace: Guarded(_discard(capacity, trace)),
    "guarded density": lambda capacity, _: Guarded(make_policy("density", capacity)),
    "belady": lambda capacity, trace: Belady(capacity, next_uses(trace)),
}


@pytest.fixture(scope="session", params=MATRIX)
def make(request: pytest.FixtureRequest) -> Maker:
    """Every policy in turn."""
    return MATRIX[request.param]


@pytest.fixture(scope="session")
def run() -> Run:
    """Replays a trace of entries of one byte and tells which requests hit."""

    def replay(policy: Policy, trace: Trace) -> list[bool]:
        return [policy.request(Entry(key, 1), place) for place, key in enumerate(trace)]

    return replay


@pytest.fixture(scope="session")
def popular() -> list[int]:
    """Two thousand requests of which few keys are popular, a loop is too long, and many come once."""
    draw = random.Random(3)
    loop, once, trace = 0, 10_000, []
    for _ in range(2_000):
        kind = draw.random()
        if kind < 0.6:
            trace.append(int(draw.paretovariate(0.8)))
        elif kind < 0.8:
            loop = (loop + 1) % 80
            trace.append(1_000_000 + loop)
        else:
            once += 1
            trace.append(2_000_000 + once)
    return trace
