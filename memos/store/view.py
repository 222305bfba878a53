"""What recall searches: one namespace in memory, kept in step with SQL through the change feed.

A *row* is one version of one memory. Rows are only ever appended or switched off, so a row number stays valid for the
life of the view. Memories of one session (``run_id``) are chained in the order they were stored.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row

from memos.cube import RECALLABLE
from memos.store.arrays import GrowingArray
from memos.store.columns import ColumnStore
from memos.store.cubes import CubeRepository
from memos.store.lexical import LexicalIndex
from memos.store.mixture import FLOAT32, mixture
from memos.store.namespaces import Namespace
from memos.store.records import Outbox

T = TypeVar("T")
NEVER = np.iinfo(np.int64).max
NONE = -1
_ROW_OVERHEAD = 600  # bytes of Python objects per row: id, metadata, list and dictionary entries
_DEAD_SHARE = 0.25


class NamespaceView:
    """Arrays over the versions of one namespace, as of one revision. Hold :attr:`lock` while using it."""

    def __init__(self, namespace_id: int, embedder_id: int, dimension: int) -> None:
        self.namespace_id = namespace_id
        self.embedder_id = embedder_id
        self.lock = threading.RLock()
        self._dimension = dimension
        self._start_over()

    def _start_over(self) -> None:
        """Empty the view, so that the next catching up loads everything."""
        self.revision = 0
        self.lexical = LexicalIndex()
        self.columns = ColumnStore()
        self.cube_ids: list[str] = []
        self.versions: list[int] = []
        self.row_of: dict[str, int] = {}
        self.speakers: dict[str, int] = {}
        self.turns: Counter[str] = Counter()
        self._vectors = GrowingArray(FLOAT32, (self._dimension,))
        self._times = GrowingArray(np.int64, (6,))
        self._chain = GrowingArray(np.int32, (2,))
        self._speaker = GrowingArray(np.int32)
        self._flags = GrowingArray(np.bool_, (4,))
        self._last: dict[str, int] = {}
        self._history: dict[str, list[int]] = defaultdict(list)
        self._dead = 0
        self._derived: dict[str, Any] = {}
        self._padded: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.cube_ids)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        arrays = (self._vectors, self._times, self._chain, self._speaker, self._flags)
        return sum(array.nbytes for array in arrays) + self.lexical.nbytes + _ROW_OVERHEAD * len(self)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Unit vectors, float32 ``[rows, dimension]``; zero where the embedder has made none yet."""
        return self._vectors.values

    @property
    def valid_from(self) -> NDArray[np.int64]:
        """When each version began to hold, microseconds ``[rows]``."""
        return self._times.values[:, 0]

    @property
    def valid_to(self) -> NDArray[np.int64]:
        """When it was superseded or closed ``[rows]``; :data:`NEVER` while it holds."""
        return self._times.values[:, 1]

    @property
    def expires_at(self) -> NDArray[np.int64]:
        """When the memory expires ``[rows]``; :data:`NEVER` if it does not."""
        return self._times.values[:, 2]

    @property
    def event_time(self) -> NDArray[np.int64]:
        """When what it tells happened or was said ``[rows]``; the creation time where nothing better is known."""
        return self._times.values[:, 3]

    @property
    def row_revision(self) -> NDArray[np.int64]:
        """The revision that last changed the memory ``[rows]``."""
        return self._times.values[:, 4]

    @property
    def fused_at(self) -> NDArray[np.int64]:
        """When the memory was put away because it was fused with others ``[rows]``; 0 if it was not."""
        return self._times.values[:, 5]

    @property
    def chain(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The rows stored just before and just after each row in its session, :data:`NONE` at the ends.

        Each array is ``[rows + 1]``: the extra last element is :data:`NONE`, so that looking up row -1 gives -1.
        """
        if self._padded is None:
            self._padded = np.append(self._chain.values, [[NONE, NONE]], axis=0).astype(np.int32)
        return self._padded[:, 0], self._padded[:, 1]

    @property
    def speaker(self) -> NDArray[np.int32]:
        """Number of the speaker in :attr:`speakers` ``[rows]``; :data:`NONE` if unknown."""
        return self._speaker.values

    @property
    def current(self) -> NDArray[np.bool_]:
        """Whether the row is the newest version of a memory that still exists ``[rows]``."""
        return self._flags.values[:, 0]

    @property
    def recallable(self) -> NDArray[np.bool_]:
        """Whether the memory exists and its state lets recall return it ``[rows]``."""
        return self._flags.values[:, 1]

    @property
    def asks(self) -> NDArray[np.bool_]:
        """Whether the text ends in a question mark ``[rows]``."""
        return self._flags.values[:, 2]

    @property
    def waiting(self) -> NDArray[np.bool_]:
        """Whether the memory wants a note and has none ``[rows]``."""
        return self._flags.values[:, 3]

    def derived(self, name: str, compute: Callable[[], T]) -> T:
        """Return a figure or array computed from the arrays here, kept until they change."""
        if name not in self._derived:
            self._derived[name] = compute()
        kept: T = self._derived[name]
        return kept

    def catch_up(self, connection: Connection, namespace: Namespace) -> None:
        """Apply every change up to the namespace's revision, read in the same snapshot.

        Loads anew where deletions in between were trimmed, or where too many rows are dead.
        """
        if self.revision >= namespace.revision:
            return
        if self.revision < namespace.floor_revision or self._dead > max(1_000, _DEAD_SHARE * len(self)):
            self._start_over()
        if self.revision:
            for removal in Outbox(connection, self.namespace_id).removals(self.revision, namespace.revision):
                self._remove(list(self._history) if removal.clear else removal.cube_ids)
        repository = CubeRepository(connection, self.namespace_id)
        self._append(list(repository.entries(self.revision, self.embedder_id)))
        self.revision = namespace.revision
        self._derived.clear()
        self._padded = None

    # ------------------------------------------------------------ inside

    def _append(self, entries: Sequence[Row[Any]]) -> None:
        if not entries:
            return
        first = len(self)
        changed = {entry.cube_id for entry in entries} & self._history.keys()
        earlier = {cube_id: self.row_of[cube_id] for cube_id in changed}
        replaced = self._retire(changed)
        self._extend(entries)
        for row, entry in enumerate(entries, first):
            self._history[entry.cube_id].append(row)
            if entry.version == entry.current:
                self.row_of[entry.cube_id] = row
                self._count_turn(entry.author, 1)
                self._link(row, entry.run_id, earlier.get(entry.cube_id))
        for old in (np.flatnonzero(~self.current[first:]) + first).tolist():
            self.lexical.switch_off(old)
        self._forget(replaced)

    def _extend(self, entries: Sequence[Row[Any]]) -> None:
        """Append the plain arrays; chains are linked afterwards."""
        raw, enriched = [entry.vector for entry in entries], [entry.enriched for entry in entries]
        self._vectors.extend(mixture(raw, enriched, self._dimension))
        self._times.extend([_times(entry, following) for entry, following in _with_following(entries)])
        self._flags.extend([_flags(entry) for entry in entries])
        self._chain.extend(np.full((len(entries), 2), NONE, np.int32))
        self._speaker.extend([self._speaker_number(entry.author) for entry in entries])
        self.lexical.append(entry.terms for entry in entries)
        self.columns.append(entries)
        self.cube_ids.extend(entry.cube_id for entry in entries)
        self.versions.extend(entry.version for entry in entries)

    def _speaker_number(self, name: str | None) -> int:
        return NONE if name is None else self.speakers.setdefault(name, len(self.speakers))

    def _count_turn(self, name: str | None, change: int) -> None:
        if name is not None:
            self.turns[name] += change
            if not self.turns[name]:
                del self.turns[name]

    def _link(self, row: int, run_id: str | None, earlier: int | None) -> None:
        """Chain a row to its session: at the end, or in the place of the version it replaces."""
        if run_id is None:
            return
        if earlier is not None:
            before, after = (int(end) for end in self._chain.values[earlier])
        else:
            before, after = self._last.get(run_id, NONE), NONE
            while before != NONE and self.cube_ids[before] > self.cube_ids[row]:
                before, after = int(self._chain.values[before, 0]), before  # a slower writer's
        self._chain.values[row] = (before, after)
        self._join(before, row)
        self._join(row, after)
        if after == NONE:
            self._last[run_id] = row

    def _remove(self, cube_ids: Iterable[str]) -> None:
        known = [cube_id for cube_id in cube_ids if cube_id in self._history]
        session_of = {row: run_id for run_id, row in self._last.items()}
        for cube_id in known:
            row = self.row_of.pop(cube_id)
            before, after = (int(end) for end in self._chain.values[row])
            self._join(before, after)
            if row in session_of:  # it was the last of its session
                run_id = session_of.pop(row)
                self._last[run_id] = before
                session_of[before] = run_id
        self._forget(self._retire(known))

    def _join(self, left: int, right: int) -> None:
        if left != NONE:
            self._chain.values[left, 1] = right
        if right != NONE:
            self._chain.values[right, 0] = left

    def _retire(self, cube_ids: Iterable[str]) -> list[int]:
        """Switch off every row of some memories; return these rows."""
        retired = []
        for cube_id in cube_ids:
            for row in self._history.pop(cube_id):
                retired.append(row)
                if self.current[row]:
                    self.lexical.switch_off(row)
                    self._count_turn(self.columns.header(row, "author"), -1)
                self._flags.values[row, :2] = False
                self._times.values[row, 5] = 0
                self._vectors.values[row] = 0.0
                self._dead += 1
        return retired

    def _forget(self, rows: Sequence[int]) -> None:
        """Keep nothing of what retired rows said, unless others say it."""
        if rows:
            self.lexical.forget(rows)
            self.columns.forget(rows)
            for name in self.speakers.keys() - self.turns.keys():
                number = self.speakers.pop(name)
                self.speakers[f"\0{number}"] = number  # a number is never given twice


def _with_following(entries: Sequence[Row[Any]]) -> Iterable[tuple[Row[Any], Row[Any] | None]]:
    """Pair each version with the next one of the same memory, if any."""
    for index, entry in enumerate(entries):
        following = entries[index + 1] if index + 1 < len(entries) else None
        yield (
            entry,
            following if following is not None and following.cube_id == entry.cube_id else None,
        )


def _times(entry: Row[Any], following: Row[Any] | None) -> tuple[int, int, int, int, int, int]:
    ends = following.valid_from if following is not None else entry.valid_to
    happened = entry.event_time if entry.event_time is not None else entry.created_at
    return (
        entry.valid_from,
        NEVER if ends is None else ends,
        NEVER if entry.expires_at is None else entry.expires_at,
        happened,
        entry.revision,
        entry.fused_at or 0,
    )


def _flags(entry: Row[Any]) -> tuple[bool, bool, bool, bool]:
    return entry.version == entry.current, entry.state in RECALLABLE, bool(entry.asks), bool(entry.waiting)
