"""What one user needs next, told from what was needed so far. Deterministic: equal uses make equal predictions."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from dataclasses import replace

from memos.schedule.foresight.candidate import Catalogue
from memos.schedule.foresight.history import OPINIONS, Context, History, Need
from memos.schedule.foresight.mixture import Mixture
from memos.schedule.foresight.use import Stream, Use

#: Uses that are kept, to be counted again when there are other candidates.
MOST_USES = 128
#: Streams whose last need is known.
MOST_STREAMS = 16
#: What comes later than this (microseconds) after the use before does not follow it.
FOLLOWS_US = 30 * 60 * 1_000_000


class Predictor:
    """Learns from uses and returns the probability that the next one needs each candidate.

    Uses are kept by memory and counted by candidate: what memories were used is known before there is a file made from
    them. Holds at most :data:`MOST_USES` uses and the counts of as many candidates as :meth:`follow` was given.
    """

    def __init__(self, mixture: Mixture | None = None) -> None:
        self._uses: deque[Use] = deque(maxlen=MOST_USES)
        self._mixture = mixture or Mixture(len(OPINIONS))
        self.follow(Catalogue())

    @property
    def weights(self) -> dict[str, float]:
        """How much each opinion counts by now."""
        return dict(zip(OPINIONS, self._mixture.weights, strict=True))

    @property
    def need(self) -> Need:
        """What the last use needed."""
        return None if self._now is None else self._now.before

    def follow(self, catalogue: Catalogue) -> None:
        """Take other candidates; count what is known of earlier uses for them."""
        self._catalogue = catalogue
        self._history = History({one.cube_id: one.heat for one in catalogue.candidates})
        self._last: OrderedDict[Stream, Context] = OrderedDict()
        self._now: Context | None = None
        for use in self._uses:
            self._count(use)

    def learn(self, use: Use) -> None:
        """Learn from a use, after all earlier ones."""
        context, need = self._context(use), self._catalogue.needed(use.ids)
        self._mixture.learn(self._history.opinions(context).of(need))
        self._uses.append(replace(use, links=()))
        self._count(use)

    def predict(self) -> dict[str, float]:
        """Return how likely the next use needs each candidate, as of the last use and in its stream."""
        if self._now is None:
            return {}
        opinions = self._history.opinions(self._now)
        return {one.cube_id: self._mixture.mean(opinions.of(one.cube_id)) for one in self._catalogue.candidates}

    def remember(self, uses: Iterable[Use]) -> None:
        """Begin with uses that are known from elsewhere, oldest first."""
        self._uses.extend(uses)
        self.follow(self._catalogue)

    def forget(self, cube_ids: Collection[str]) -> None:
        """Forget that some memories, or cubes, were ever used."""
        gone = set(cube_ids)
        kept = [replace(use, ids=tuple(one for one in use.ids if one not in gone)) for use in self._uses]
        self._uses = deque((use for use in kept if use.ids), maxlen=MOST_USES)
        left = tuple(one for one in self._catalogue.candidates if one.cube_id not in gone and not gone & one.notes)
        self.follow(Catalogue(left))

    # ------------------------------------------------------------ inside

    def _count(self, use: Use) -> None:
        need: Need = self._catalogue.needed(use.ids)
        self._history.add(need, self._context(use))
        self._now = Context(use.at, need, True, self._catalogue.linked(use.links))
        self._last[use.stream] = self._now
        self._last.move_to_end(use.stream)
        if len(self._last) > MOST_STREAMS:
            self._last.popitem(last=False)

    def _context(self, use: Use) -> Context:
        """Return what was known right before a use, when the use before it had been learned from."""
        last = self._last.get(use.stream)
        if last is None:
            return Context(use.at)
        return last if use.at - last.at <= FOLLOWS_US else Context(last.at)
