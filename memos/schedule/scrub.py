"""The scrub: reads a store a little at a time, slowly, and puts right what it finds.

Each run goes on where the last one ended, so that in the course of some runs every checksum is compared, however large
the files are. ``home/scrub.json`` says how far it has come; without it the next run begins at the beginning.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from memos.cube import Frozen
from memos.doctor.repair import Action, Mender
from memos.doctor.survey import Cursor, Survey
from memos.store.database import Database

#: The task that runs a scrub once.
SCRUB = "scrub"
FILE = "scrub.json"
#: How long one run takes at most where nothing but its own limit slows it down, in seconds.
RUN_S = 60.0
#: Seconds between two calls of ``alive`` at least.
_BEAT_S = 1.0


class ScrubReport(Frozen):
    """What a run did: bytes read, damage found by kind, and what was put right. ``complete`` if it came to the end.

    ``skipped``: another process is at it.
    """

    bytes: int = 0
    found: dict[str, int] = Field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    complete: bool = False
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A store as the scrub needs it. ``sweep`` removes what belongs to nothing and says so."""

    database: Database
    home: Path
    survey: Survey
    mender: Mender
    sweep: Callable[[], Sequence[Action]]


class Throttle:
    """Keeps reading below a rate, in bytes a second, by sleeping; ``alive`` is called about once a second meanwhile."""

    def __init__(
        self,
        bytes_per_s: float,
        alive: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_s
        self._alive = alive
        self._clock = clock
        self._sleep = sleep
        self._start = self._beat = clock()
        self.spent = 0

    def spend(self, count: int) -> None:
        """Say that ``count`` bytes were read, and wait until so many may have been."""
        self.spent += count
        self._tick()
        while (early := self._early()) > 0:
            self._sleep(min(early, _BEAT_S))
            self._tick()

    def _early(self) -> float:
        return self._start + self.spent / self._rate - self._clock()

    def _tick(self) -> None:
        if self._clock() - self._beat >= _BEAT_S:
            self._beat = self._clock()
            self._alive()


def scrub(store: Scrubbed, bytes_per_s: float, *, alive: Callable[[], None], run_s: float = RUN_S) -> ScrubReport:
    """Run once: remove what belongs to nothing, then read on for at most ``run_s`` seconds' worth of ``bytes_per_s``.

    At least one thing is looked at. An exception out of ``alive`` ends the run; what was done is done, and the next one
    goes on from there. Raises :class:`memos.errors.StoreUnavailable` where the store cannot be reached.
    """
    with store.database.lease("memos-scrub") as granted:
        if not granted:
            return ScrubReport(skipped=True)
        throttle = Throttle(bytes_per_s, alive)
        return _run(store, _read_cursor(store.home), throttle, bytes_per_s * run_s)


def scrub_all(store: Scrubbed) -> ScrubReport:
    """Look at everything at once, as fast as it can be read."""
    return _run(store, Cursor(), Throttle(float("inf"), lambda: None), float("inf"))


def _run(store: Scrubbed, cursor: Cursor, throttle: Throttle, most_bytes: float) -> ScrubReport:
    found: Counter[str] = Counter()
    actions = [*store.sweep()]
    complete = True
    try:
        for place, look in store.survey.walk(cursor, throttle.spend):
            found.update(damage.harm.value for damage in look.damages)
            actions += [done for damage in look.damages if (done := store.mender.mend(damage)) is not None]
            cursor = place
            if throttle.spent >= most_bytes:
                complete = False
                break
        else:
            cursor = Cursor()
    finally:
        _write_cursor(store.home, cursor)
    return ScrubReport(bytes=throttle.spent, found=dict(found), actions=tuple(actions), complete=complete)


def _read_cursor(home: Path) -> Cursor:
    with suppress(OSError, ValueError, TypeError):
        said = json.loads((home / FILE).read_text("utf-8"))
        return Cursor(int(said["space"]), str(said["check"]), str(said["key"]))
    return Cursor()


def _write_cursor(home: Path, cursor: Cursor) -> None:
    """Write it whole or not at all; to lose it costs no more than to begin anew."""
    part = home / f".{FILE}.part"
    with suppress(OSError):
        part.write_text(json.dumps(asdict(cursor)), "utf-8")
        part.replace(home / FILE)
