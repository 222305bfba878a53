"""Which mode serves a prompt, and how much of it is computed anew: whatever costs least time, by what was measured.

CacheBlend (arXiv:2405.16444, section 5) recomputes as much as takes no longer than loading, and never less than keeps
the quality. Blending looses against one exact cache where it saves little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos.activation.compose.names import BLEND, PREFIX

#: The least share that is recomputed: below it, quality suffers more than time is won.
LEAST = 0.15
#: Blending is chosen where it takes at most this share of the time of an exact way.
WORTH = 0.75
#: Tokens of a question that look at the memories before rows are chosen.
LOOK = 64
#: Bytes a second that caches are turned and copied at, and read at, where nobody measured.
MOVING, READING = 1e9, 1e9


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured: seconds for a token of a prefill, seconds for a byte of a file; the model's form.

    ``bytes`` are those of one token's cache.
    """

    token: float
    layers: int
    bytes: int
    byte: float = 1 / READING


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
    load = cold_bytes * costs.byte
    ratio = min(max(load / (costs.token * total), LEAST), 1.0)
    computed = LOOK + moved / costs.layers + ratio * total
    seconds = load + costs.token * computed + total * costs.bytes / MOVING
    return Choice(BLEND, ratio, seconds) if seconds <= WORTH * alone.seconds else alone
