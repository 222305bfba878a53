"""What was needed so far, told by what came before it and by the hour: four opinions of what is needed next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memos.schedule.foresight.tally import Tally

#: What a use needs: the cube of a KV file or an adapter, or neither.
Need = str | None

#: Opinions, in the order in which :meth:`History.opinions` returns them.
OPINIONS = ("heat", "session", "hour", "links")
#: After so many further uses, one counts half. As each of the four constants here it was chosen on two LoCoMo
#: conversations (benchmarks/prefetch.py --choose); results are from others.
HALF_LIFE = 32.0
#: What is assumed counts as much as so many observations: in general, and after a certain need or in a certain hour.
PRIOR, SPECIAL_PRIOR = 1.0, 1.0
#: What an hour has to do with the hours around it.
NEAR = {-1: 0.5, 0: 1.0, 1: 0.5}
#: Needs that are told apart after a need, and in an hour: what comes seldom there is nothing to prepare for.
BRANCHES = 16
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Context:
    """What is known when the next need is predicted, which is right after a use, however long it is until the next.

    ``before`` is the need of the use before in the stream, if ``followed``, that is if there was one not long ago;
    ``linked`` is the share of the links of its memories into each cube, ``at`` the time of that use (microseconds).
    """

    at: int
    before: Need = None
    followed: bool = False
    linked: Mapping[str, float] = field(default_factory=dict)


class History:
    """Counts of needs: of all, by the need before and by the hour of the day (UTC) of the use before.

    With ``c`` counts that fade and ``u = 1 / (candidates + 1)``, the opinions on a need ``s`` are

        heat      h(s) = (c(s) + PRIOR u) / (c + PRIOR)
        session   (c(s after the need before) + SPECIAL_PRIOR h(s)) / (c(after it) + SPECIAL_PRIOR)
        hour      (c(s near this hour) + SPECIAL_PRIOR h(s)) / (c(near this hour) + SPECIAL_PRIOR)
        links     share of link strength into s + (share into no candidate) h(s)

    each a probability distribution: counts smoothed towards what is known in general, with a Dirichlet prior (MacKay &
    Peto, Natural Language Engineering 1995). Where there is nothing special to know, an opinion is that of heat.
    """

    def __init__(self, heats: Mapping[str, float]) -> None:
        self._most = len(heats) + 1
        self._all = Tally(HALF_LIFE, self._most)
        self._before: dict[Need, Tally] = {}
        self._hours = [Tally(HALF_LIFE, BRANCHES) for _ in range(24)]
        self._heats = dict(heats)
        self._heat = sum(heats.values())

    def add(self, need: Need, context: Context) -> None:
        """Count a need."""
        self._all.add(need)
        self._hours[_hour(context.at)].add(need)
        if context.followed:
            self._before.setdefault(context.before, Tally(HALF_LIFE, BRANCHES)).add(need)

    def opinions(self, context: Context) -> Opinions:
        """Return the opinions in a context."""
        hours = [(self._hours[(_hour(context.at) + far) % 24], weight) for far, weight in NEAR.items()]
        before = self._before.get(context.before) if context.followed else None
        return Opinions(self, before, hours, context.linked)

    def heat(self, need: Need) -> float:
        """Return how likely a need is in general."""
        known = self._all.count(need) + self._heats.get(need or "", 0.0)
        return (known + PRIOR / self._most) / (self._all.total + self._heat + PRIOR)


class Opinions:
    """The opinions in one context; :meth:`of` asks them about a need."""

    def __init__(
        self,
        history: History,
        before: Tally | None,
        hours: list[tuple[Tally, float]],
        linked: Mapping[str, float],
    ) -> None:
        self._history = history
        self._before = before
        self._after = before.total if before is not None else 0.0
        self._hours = [(tally, weight) for tally, weight in hours if len(tally)]
        self._near = sum(weight * tally.total for tally, weight in self._hours)
        self._linked = linked
        self._unlinked = max(0.0, 1.0 - sum(linked.values()))

    def of(self, need: Need) -> tuple[float, float, float, float]:
        """Return how likely a need is by each opinion."""
        heat = self._history.heat(need)
        after = self._before.count(need) if self._before is not None else 0.0
        near = sum(weight * tally.count(need) for tally, weight in self._hours)
        return (
            heat,
            (after + SPECIAL_PRIOR * heat) / (self._after + SPECIAL_PRIOR),
            (near + SPECIAL_PRIOR * heat) / (self._near + SPECIAL_PRIOR),
            self._linked.get(need or "", 0.0) + self._unlinked * heat,
        )


def _hour(at: int) -> int:
    return at // _HOUR_US % 24
