"""Heat: how often and how lately each cube was used, as one number that halves with time.

    heat(t) = sum over uses of 2^(-(t - t_use) / half life)

One number tells both recency and frequency, and old uses need no rows: what is stored is the heat as of the last
use. Uses are counted in memory and written together every few seconds, so a read costs no write; what a crash loses is
the count of those seconds.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from memos.clock import now_us, to_us
from memos.cube import Behaviour, Scope
from memos.errors import StoreError
from memos.store import namespaces
from memos.store.behaviour import BehaviourRepository, Use
from memos.store.database import Database

logger = logging.getLogger(__name__)

#: Seconds for which uses are gathered before they are written.
GATHER_S = 5.0
#: Cubes whose uses are gathered at most: beyond, they are written at once.
MOST = 20_000


@dataclass(frozen=True, slots=True)
class Cooling:
    """How fast heat fades: ``half_life_us`` in microseconds."""

    half_life_us: float

    @classmethod
    def days(cls, days: float) -> Cooling:
        """Return the cooling of a half life in days."""
        return cls(days * 86_400e6)

    def heat(self, heat: float, as_of: int | None, now: int) -> float:
        """Return by now what was ``heat`` as of a time (microseconds since the epoch)."""
        return 0.0 if as_of is None else heat * math.exp2(min(0, as_of - now) / self.half_life_us)

    def by_now(self, behaviour: Behaviour, now: int) -> float:
        """Return the heat of a cube by a time (microseconds since the epoch)."""
        used = behaviour.last_recalled_at
        return self.heat(behaviour.heat, None if used is None else to_us(used), now)

    def uses(self, heat: float, seconds: float) -> float:
        """Return how many uses to expect within ``seconds``, if it goes on as it did.

        Uses at a steady rate r come to a heat of r * half life / ln 2 in the long run, which gives the rate.
        """
        return heat * math.log(2) * seconds * 1e6 / self.half_life_us


class HeatLog:
    """Counts uses and writes them together. Any thread may count; the thread that writes starts with the first use."""

    def __init__(self, database: Database, cooling: Cooling) -> None:
        self._database = database
        self._cooling = cooling
        self._lock = threading.Lock()
        self._gathered: dict[tuple[str, str], dict[str, Use]] = {}
        self._count = 0
        self._closed = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def count(self, scope: Scope, cube_ids: Iterable[str]) -> None:
        """Count a use of each cube, now."""
        now = now_us()
        with self._lock:
            if self._closed.is_set():
                return
            uses = self._gathered.setdefault((scope.tenant, scope.user_id), {})
            before = len(uses)
            for cube_id in cube_ids:
                earlier = uses.get(cube_id)
                uses[cube_id] = Use(1 if earlier is None else earlier.count + 1, now)
            self._count += len(uses) - before
            if self._count > MOST:
                self._hurry.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memos-heat", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what was gathered. Raises :class:`StoreError`; what was not written by then is lost."""
        with self._lock:
            gathered, self._gathered, self._count = self._gathered, {}, 0
        for (tenant, user_id), uses in gathered.items():
            with self._database.write() as connection:
                namespace = namespaces.find(connection, Scope(tenant=tenant, user_id=user_id))
                if namespace is not None:
                    BehaviourRepository(connection, namespace.id).add(uses, self._cooling.heat)

    def close(self) -> None:
        """Write what was gathered and end the thread."""
        with self._lock:
            self._closed.set()
        self._hurry.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._closed.is_set():
            self._hurry.wait(GATHER_S)
            self._hurry.clear()
            self._try_flush()
        self._try_flush()

    def _try_flush(self) -> None:
        try:
            self.flush()
        except StoreError as error:  # heat is a hint: nothing depends on it but what is moved first
            logger.warning("some uses of memories were not counted: %s", error)
