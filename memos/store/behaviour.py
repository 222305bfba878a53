"""How cubes were used, within one namespace: counters that reads leave behind, and no revision of the change feed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam

from memos.store.schema import cubes
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: Heat by a later time, given heat, as of when, and that time.
Cool = Callable[[float, int | None, int], float]


@dataclass(frozen=True, slots=True)
class Use:
    """``count`` uses, the last ``at`` microseconds since the epoch."""

    count: int
    at: int


class BehaviourRepository(ScopedRepository):
    """Reads and writes the counters of one namespace's cubes."""

    def add(self, uses: Mapping[str, Use], cool: Cool) -> None:
        """Add uses to what was counted before; those of cubes that are gone by now are dropped."""
        ids = sorted(uses)  # every writer locks rows in one order
        change = (
            self._update(cubes)
            .where(cubes.c.id == bindparam("cube_id"))
            .values(
                recall_count=cubes.c.recall_count + bindparam("more"),
                last_recalled_at=bindparam("at"),
                heat=bindparam("by_now"),
            )
        )
        for start in range(0, len(ids), IN_CHUNK):
            columns = (cubes.c.id, cubes.c.heat, cubes.c.last_recalled_at)
            known = self._select(cubes, *columns).where(cubes.c.id.in_(ids[start : start + IN_CHUNK]))
            rows = []
            for row in self.connection.execute(known.order_by(cubes.c.id).with_for_update()):
                use = uses[row.id]
                at = max(use.at, row.last_recalled_at or 0)
                by_now = cool(row.heat, row.last_recalled_at, at) + use.count
                rows.append({"cube_id": row.id, "more": use.count, "at": at, "by_now": by_now})
            if rows:
                self.connection.execute(change, rows)

    def of(self, cube_ids: Sequence[str]) -> dict[str, tuple[float, int | None]]:
        """Return the heat of cubes and as of when."""
        found: dict[str, tuple[float, int | None]] = {}
        for start in range(0, len(cube_ids), IN_CHUNK):
            columns = (cubes.c.id, cubes.c.heat, cubes.c.last_recalled_at)
            chosen = self._select(cubes, *columns).where(cubes.c.id.in_(cube_ids[start : start + IN_CHUNK]))
            found.update((row.id, (row.heat, row.last_recalled_at)) for row in self.connection.execute(chosen))
        return found
