"""How likely things of a class are used again, learned from what became of others of that class."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable

#: What happens to entries younger than this share of the age at which things go decides nothing, so it is not counted.
_YOUNG = 0.5
#: How much evidence, in logarithms of ages, a class needs to count as much as what is assumed of it.
_PRIOR = 20.0
#: How fast the age at which things go is followed.
_FOLLOW = 1 / 64


class Reuse:
    """The rate of reuse of what was idle for a time ``t`` is ``theta / t``, with one ``theta`` for each class.

    Such a rate makes the idle time before a use a Pareto variable, ``P(idle > t) = (m / t)^theta`` beyond an age ``m``,
    as needs for memories are distributed (Anderson & Schooler, Psychological Science 1991). The likeliest theta is
    ``uses / sum ln(t_i / m)`` over all idle times ``t_i > m``, whether they ended with a use or not; here it is shrunk
    towards the theta of everything, times a class's ``odds``. Only ratios of ages matter, so time may have any unit.
    """

    def __init__(self) -> None:
        self._uses: defaultdict[Hashable, float] = defaultdict(float)
        self._logs: defaultdict[Hashable, float] = defaultdict(float)
        self._all_uses, self._all_logs = 1.0, 3.0
        #: Ends counted since the last time that older ones were halved.
        self.counted = 0
        self._leaving_age = 0.0

    def theta(self, key: Hashable, odds: float = 1.0) -> float:
        """Return theta of a class, of which it is assumed that it is used ``odds`` times as often as others."""
        assumed = _PRIOR * odds * self._all_uses / self._all_logs
        return (self._uses[key] + assumed) / (self._logs[key] + _PRIOR)

    def end(self, key: Hashable, idle: float, *, used: bool) -> None:
        """Count that something of a class was idle for so long, and then was used or given up."""
        young = _YOUNG * self._leaving_age
        if idle <= young or not idle:
            return
        log = math.log(idle / young) if young else 1.0
        self._logs[key] += log
        self._all_logs += log
        if used:
            self._uses[key] += 1.0
            self._all_uses += 1.0
        self.counted += 1

    def leaving(self, idle: float) -> None:
        """Hear how long something was idle that has to go now."""
        self._leaving_age += (idle - self._leaving_age) * _FOLLOW

    def halve(self) -> None:
        """Let what was counted so far count half."""
        self.counted = 0
        self._all_uses /= 2
        self._all_logs /= 2
        for counts in (self._uses, self._logs):
            for key in counts:
                counts[key] /= 2
