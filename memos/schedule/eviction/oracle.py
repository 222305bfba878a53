"""The bits of somebody who knows the trace: right ones, and ones with errors. For simulators and tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

from memos.schedule.eviction.belady import Belady, next_uses
from memos.schedule.eviction.entry import Entry, Key
from memos.schedule.eviction.prediction import Predictor


def discard_bits(trace: Sequence[Key], capacity: int) -> list[bool]:
    """Return for every request whether the optimum for ``capacity`` entries evicts it before its next use.

    What is never used again is safe to discard.
    """
    optimum = Belady(capacity, next_uses(trace))
    last: dict[Key, int] = {}
    bits = [True] * len(trace)
    for place, key in enumerate(trace):
        if optimum.request(Entry(key, 1), place):
            bits[last[key]] = False
        last[key] = place
    return bits


def phase_bits(trace: Sequence[Key], capacity: int) -> list[bool]:
    """Return for every request whether its key is not requested in the next phase.

    A phase is as long as no more than ``capacity`` distinct keys are requested.
    """
    phases: list[set[Key]] = [set()]
    place_in = []
    for key in trace:
        if key not in phases[-1] and len(phases[-1]) == capacity:
            phases.append(set())
        phases[-1].add(key)
        place_in.append(len(phases))
    phases.append(set())
    return [key not in phases[following] for key, following in zip(trace, place_in, strict=True)]


def flipped(bits: Sequence[bool], share: float, seed: int = 0) -> list[bool]:
    """Return bits of which every one is wrong with probability ``share``: 0 right, 1 inverted, .5 random."""
    draw = random.Random(seed).random
    return [bit != (draw() < share) for bit in bits]


def told(bits: Sequence[bool]) -> Predictor:
    """Return a predictor that reads the bits of a trace; time is the place in it."""
    return lambda entry: bits[int(entry.used_at)]
