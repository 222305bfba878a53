"""How patient runners are."""

from __future__ import annotations

from dataclasses import dataclass

from memos.config import Settings
from memos.schedule.retry import FIRST_US
from memos.store.leases import LEASE_US


@dataclass(frozen=True, slots=True)
class Pace:
    """Microseconds that a job is left to a runner of which nothing is heard, and the first wait after a failure."""

    lease_us: int = LEASE_US
    first_us: int = FIRST_US

    @classmethod
    def of(cls, settings: Settings) -> Pace:
        """Return what is set."""
        return cls(round(settings.lease_s * 1e6), round(settings.retry_s * 1e6))


USUAL = Pace()
