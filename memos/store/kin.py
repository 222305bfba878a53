"""Memories that say what others say, within one namespace: what goes along with those, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from memos.cube import ECHO, FUSION, Kind, State
from memos.store.schema import cubes, influences, parents
from memos.store.scoped import IN_CHUNK, ScopedRepository

#: States of memories that another one stands for, or was written from.
_PUT_AWAY = (State.ARCHIVED.value, State.MERGED.value)


class KinRepository(ScopedRepository):
    """Finds memories by what they repeat. Callers hold the namespace's lock."""

    def along(self, cube_ids: Sequence[str]) -> list[str]:
        """Return memories with those that hold what they say: echoes of recall, and notes written from several."""
        found = list(dict.fromkeys(cube_ids))
        waiting = found
        while waiting:
            more = [*self._echoes(waiting), *self._fused(waiting)]
            waiting = sorted(set(more).difference(found))
            found = [*found, *waiting]
        return found

    def duplicates(self, cube_ids: Sequence[str]) -> list[str]:
        """Return memories with the near-duplicates they stand for, which say the same."""
        found = list(dict.fromkeys(cube_ids))
        waiting = found
        while waiting:
            waiting = sorted(self._parents(waiting).difference(found))
            found = [*found, *waiting]
        return found

    def revive(self, cube_ids: Sequence[str], revision: int, at: int) -> list[str]:
        """Bring back what memories that are about to go stand for, or were written from; return what that is.

        What repeated one of them has to say it itself from now on: its note, which was put aside, is written anew.
        """
        back = sorted(self._parents(cube_ids).difference(cube_ids))
        for chunk in _chunks(back):
            away = self._update(cubes).where(cubes.c.id.in_(chunk), cubes.c.state.in_(_PUT_AWAY))
            self.connection.execute(away.where(cubes.c.remark.is_not(None)).values(scribe=None, remark=None))
            values = {"state": State.ACTIVATED.value, "revision": revision, "updated_at": at}
            self.connection.execute(away.values(**values))
        return back

    def _parents(self, cube_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for chunk in _chunks(cube_ids):
            found.update(
                self.connection.scalars(self._select(parents, parents.c.parent_id).where(parents.c.cube_id.in_(chunk)))
            )
        return found

    def _echoes(self, cube_ids: Sequence[str]) -> Iterator[str]:
        known = self._select(cubes, cubes.c.id).join_from(cubes, influences, influences.c.cube_id == cubes.c.id)
        known = known.where(cubes.c.state == State.QUARANTINED.value, cubes.c.remark.startswith(ECHO))
        for chunk in _chunks(cube_ids):
            yield from self.connection.scalars(known.where(influences.c.source_id.in_(chunk)))

    def _fused(self, cube_ids: Sequence[str]) -> Iterator[str]:
        known = self._select(cubes, cubes.c.id).join_from(cubes, parents, parents.c.cube_id == cubes.c.id)
        known = known.where(cubes.c.kind == Kind.PLAINTEXT.value, cubes.c.source == FUSION)
        for chunk in _chunks(cube_ids):
            yield from self.connection.scalars(known.where(parents.c.parent_id.in_(chunk)))


def _chunks(items: Collection[str]) -> Iterator[list[str]]:
    ordered = list(items)
    for start in range(0, len(ordered), IN_CHUNK):
        yield ordered[start : start + IN_CHUNK]
