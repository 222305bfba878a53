"""The walk through a whole store, namespace by namespace and check by check, from wherever the last one ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from memos.doctor.checks import Check, CountCheck, FileCheck, IndexCheck, Look, TextCheck
from memos.payloads.base import PayloadFiles, Tell
from memos.store import namespaces
from memos.store.database import Database
from memos.store.vector_index import VectorIndex


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place of the walk: behind ``key`` of a check of a namespace, by its number."""

    space: int = 0
    check: str = ""
    key: str = ""


class Survey:
    """Checks in the order in which they are made in each namespace, by name."""

    def __init__(self, database: Database, checks: dict[str, Check]) -> None:
        self._database = database
        self._checks = checks

    def walk(self, start: Cursor, tell: Tell) -> Iterator[tuple[Cursor, Look]]:
        """Yield what is found behind ``start``, each look with the place from where the walk could go on."""
        with self._database.read() as connection:
            spaces = [space for space in namespaces.every(connection) if space.id >= start.space]
        names = [*self._checks]
        for space in spaces:
            reached = space.id == start.space and start.check in names
            for name in names[names.index(start.check) :] if reached else names:
                after = start.key if reached and name == start.check else ""
                for look in self._checks[name].look(space, after, tell):
                    yield Cursor(space.id, name, look.key), look


def survey_of(
    database: Database,
    tiers: Sequence[PayloadFiles],
    index: VectorIndex | None,
    alone: Callable[[int], AbstractContextManager[None]],
) -> Survey:
    """Return all checks there are; without ``index``, the vector index is left out."""
    checks: dict[str, Check] = {"count": CountCheck(database), "texts": TextCheck(database)}
    checks |= {tier.name: FileCheck(database, tier) for tier in tiers}
    if index is not None:
        checks["index"] = IndexCheck(database, index, alone)
    return Survey(database, checks)
