"""Which mode serves a prompt, and how much of it is computed anew: whatever costs least time, by what was measured.

CacheBlend (arXiv:2405.16444, section 5) recomputes as much as takes no longer than loading, and never less than keeps
the quality. Blending loses against one exact cache where it saves little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos.activation.compose.names import BLEND, PREFIX
from memos.schedule.moving.costs import READ_BYTES_PER_S

#: The least share that is recomputed: below it, quality suffers more than time is won.
LEAST = 0.15
#: Blending is chosen where it takes at most this share of the time of an exact way.
WORTH = 0.75
#: The most tokens of a question that look back at the memories: the last ones, which the answer follows.
LOOK = 64
#: Bytes a second that caches are turned and copied at.
MOVING_BYTES_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Costs:
    """``token`` seconds compute a token of a prompt, as was measured; a token's cache has ``bytes`` in all layers."""

    token: float
    layers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A mode, the share of tokens it computes anew, and the seconds that are expected of it."""

    mode: str
    ratio: float
    seconds: float


def choose(bundles: Sequence[int], cold_bytes: int, *, exact: bool, costs: Costs) -> Choice:
    """Return the mode for bundles of so many tokens, of whose files ``cold_bytes`` have to be read.

    ``exact`` says that the first bundle may begin the prompt alone, the others being computed behind it.
    """
    total, moved = sum(bundles), sum(bundles[1:])
    alone = Choice(PREFIX, 0.0, costs.token * (moved if exact else total))
    if not moved:
        return alone
    load = cold_bytes / READ_BYTES_PER_S
    ratio = min(max(load / (costs.token * total), LEAST), 1.0)
    computed = LOOK + moved / costs.layers + ratio * total
    seconds = load + costs.token * computed + total * costs.bytes / MOVING_BYTES_PER_S
    return Choice(BLEND, ratio, seconds) if seconds <= WORTH * alone.seconds else alone
