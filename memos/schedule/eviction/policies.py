"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable

from memos.errors import InvalidInput
from memos.schedule.eviction.arc import Arc
from memos.schedule.eviction.base import Policy
from memos.schedule.eviction.density import ValueDensity
from memos.schedule.eviction.discard import Discard
from memos.schedule.eviction.gdsf import Gdsf
from memos.schedule.eviction.guarded import Guarded
from memos.schedule.eviction.lfu import Lfu
from memos.schedule.eviction.lru import Lru
from memos.schedule.eviction.predictor import DiscardPredictor
from memos.schedule.eviction.s3fifo import S3Fifo


def learned(capacity: int) -> Policy:
    """Return paging with discard predictions that are learned online, guarded by LRU."""
    return Guarded(Discard(capacity, DiscardPredictor(capacity)))


#: Makers by name; each takes the capacity in bytes.
POLICIES: dict[str, Callable[[int], Policy]] = {
    "lru": Lru,
    "lfu": Lfu,
    "gdsf": Gdsf,
    "s3fifo": S3Fifo,
    "arc": Arc,
    "density": ValueDensity,
    "learned": learned,
}


def make_policy(name: str, capacity: int) -> Policy:
    """Return the policy of a name for so many bytes. Raises :class:`InvalidInput`."""
    if name not in POLICIES:
        raise InvalidInput(f"no eviction policy is called {name!r}; there are: {', '.join(POLICIES)}")
    return POLICIES[name](capacity)
