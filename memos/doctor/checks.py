"""Checks of one namespace, each a row of looks in a fixed order, so that one can stop anywhere and go on there."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memos.cube import Scope
from memos.doctor.damage import Damage, Harm
from memos.errors import StoreUnavailable
from memos.payloads.base import PayloadFiles, Tell
from memos.plaintext.analysis import terms
from memos.store import embedder_table, namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.health import Health
from memos.store.namespaces import Namespace
from memos.store.vector_index import VectorIndex

logger = logging.getLogger(__name__)
_PAGE = 500
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at one place. ``key`` is where: the next look of the check has a greater one."""

    key: str
    damages: tuple[Damage, ...] = ()


class Check(ABC):
    """One kind of check."""

    @abstractmethod
    def look(self, space: Namespace, after: str, tell: Tell) -> Iterator[Look]:
        """Look through a namespace, from the first place behind ``after``; ``tell`` is told of every byte read."""


class FileCheck(Check):
    """Every row's file is there and is what was published."""

    def __init__(self, database: Database, tier: PayloadFiles) -> None:
        self._database = database
        self._tier = tier

    def look(self, space: Namespace, after: str, tell: Tell) -> Iterator[Look]:
        """Look at one file after the other, in the order of their cubes."""
        with self._database.read() as connection:
            listed = self._tier.listed(connection, space.id)
        scope = Scope(tenant=space.tenant, user_id=space.user_id)
        for payload in sorted(listed, key=lambda payload: payload.cube_id):
            if payload.cube_id <= after:
                continue
            problem = self._tier.check(space.tenant, payload, tell)
            if problem is None:
                yield Look(payload.cube_id)
                continue
            harm = Harm.LOST if problem.absent else Harm.DAMAGED
            damage = Damage(harm, scope, space.id, payload.cube_id, tier=self._tier.name, detail=str(problem))
            yield Look(payload.cube_id, (damage,))


class TextCheck(Check):
    """Every version's text is what was stored, and its lexical terms are those of the text."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look(self, space: Namespace, after: str, tell: Tell) -> Iterator[Look]:
        """Look at one page of versions after the other."""
        scope = Scope(tenant=space.tenant, user_id=space.user_id)
        while True:
            with self._database.read() as connection:
                page = Health(connection, space.id).texts(*_place(after), _PAGE)
            if not page:
                return
            tell(sum(len(row.text) + len(row.terms) for row in page))
            wrong = [(row, harm) for row in page for harm in _harms(row.text, row.digest, row.terms)]
            after = f"{page[-1].cube_id}@{page[-1].version}"
            found = (Damage(harm, scope, space.id, cube_id=row.cube_id, version=row.version) for row, harm in wrong)
            yield Look(after, tuple(found))


def _place(after: str) -> tuple[str, int]:
    cube_id, _, version = after.partition("@")
    return cube_id, int(version or 0)


def _harms(text: str, digest: str, stored_terms: str) -> Iterator[Harm]:
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        yield Harm.TEXT
    elif " ".join(terms(text)) != stored_terms:
        yield Harm.TERMS


class IndexCheck(Check):
    """The collection of a namespace holds the vectors of its memories and no others.

    ``alone`` keeps the relay from writing to it meanwhile. One that lags behind is left to the relay.
    """

    def __init__(
        self, database: Database, index: VectorIndex, alone: Callable[[int], AbstractContextManager[None]]
    ) -> None:
        self._database = database
        self._index = index
        self._alone = alone

    def look(self, space: Namespace, after: str, tell: Tell) -> Iterator[Look]:
        """Look once."""
        if after:
            return
        try:
            with self._alone(space.id):
                problem = self._problem(space.id, tell)
        except StoreUnavailable as error:
            logger.warning("an index was not looked at: %s", error)
            problem = "it is damaged" if error.extra.get("damaged") else None
        scope = Scope(tenant=space.tenant, user_id=space.user_id)
        yield Look("-", (Damage(Harm.INDEX, scope, space.id, detail=problem),) if problem else ())

    def _problem(self, namespace_id: int, tell: Tell) -> str | None:
        with self._database.read() as connection:
            space, embedder = namespaces.read(connection, namespace_id), embedder_table.active(connection)
            if space.collection is None or embedder is None or space.indexed_revision < space.revision:
                return None
            cubes = CubeRepository(connection, namespace_id)
            ids, vectors = cubes.current_vectors(0, space.revision, embedder.id)
        if not self._index.exists(space.collection):
            return "the collection is missing"
        return self._difference(space.collection, ids, vectors, tell)

    def _difference(self, collection: str, ids: list[str], vectors: NDArray[np.float32], tell: Tell) -> str | None:
        row_of = {cube_id: row for row, cube_id in enumerate(ids)}
        found = 0
        for page, held in self._index.pages(collection):
            tell(held.nbytes)
            if any(cube_id not in row_of for cube_id in page):
                return "it holds memories that are not there any more"
            rows = [row_of[cube_id] for cube_id in page]
            if held.shape[1] != vectors.shape[1] or not np.allclose(held, vectors[rows], atol=_TOLERANCE):
                return "it holds other vectors than the database"
            found += len(page)
        return None if found == len(ids) else f"it holds {found} of {len(ids)} memories"


class CountCheck(Check):
    """The directory counts the memories that there are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look(self, space: Namespace, after: str, tell: Tell) -> Iterator[Look]:
        """Look once."""
        if after:
            return
        with self._database.read() as connection:
            kept, counted = namespaces.read(connection, space.id).memories, Health(connection, space.id).memories()
        scope = Scope(tenant=space.tenant, user_id=space.user_id)
        yield Look("-", (Damage(Harm.COUNT, scope, space.id),) if kept != counted else ())
