"""Who would go from a tier, in which order and why, told from the counters that are stored with its entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos.schedule.eviction.entry import Entry
from memos.schedule.eviction.policies import make_policy


@dataclass(frozen=True, slots=True)
class Eviction:
    """Somebody who would go, and why."""

    entry: Entry
    reason: str


def plan_evictions(entries: Sequence[Entry], free_bytes: int, now: float, *, policy: str = "density") -> list[Eviction]:
    """Return who would go until ``free_bytes`` are free, first who goes first; nobody who is held.

    Nothing is changed, and equal arguments give equal plans. The list frees less if all that may go is less. Raises
    :class:`InvalidInput` for an unknown policy.
    """
    chosen = make_policy(policy, max(sum(entry.bytes for entry in entries), 1))
    chosen.restore(entries)
    plan: list[Eviction] = []
    freed = 0
    while freed < free_bytes and (victim := chosen.victim(now)) is not None:
        plan.append(Eviction(victim, chosen.reason(victim, now)))
        chosen.evict(now)
        freed += victim.bytes
    return plan
