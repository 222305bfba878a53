"""Which memories a promotion is about."""

from __future__ import annotations

from collections.abc import Container, Sequence

from sqlalchemy import Connection

from memos.cube import MemCube, Scope, check_name
from memos.errors import InvalidInput, NotFound
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.scoped import locate


def chosen(database: Database, tenant: str, cube_ids: object, user_id: str | None) -> tuple[Scope, list[str]]:
    """Return whose memories some ids name, and each id once.

    Raises :class:`NotFound`, and :class:`InvalidInput` for what is no list of ids, for memories of several users and
    for cubes that were made from memories.
    """
    check_name(user_id, "user_id")
    ids = _checked(cube_ids)
    with database.read() as connection:
        owners = {locate(connection, tenant, cube_id, user_id) for cube_id in ids}
        if len(owners) > 1:
            raise InvalidInput("these memories belong to different users; a cube is made from one user's")
        (scope,) = owners
        namespace = namespaces.find(connection, scope)
        notes = CubeRepository(connection, namespace.id).get(ids, scope) if namespace else {}
    derived = [cube_id for cube_id in ids if cube_id not in notes]
    if derived:
        raise InvalidInput(f"{derived[0]!r} is no memory but a cube made from some; promote those")
    return scope, ids


def memories_of(database: Database, scope: Scope, cube_ids: Sequence[str]) -> list[MemCube]:
    """Return memories as they are now. Raises :class:`NotFound` for one that was forgotten since it was chosen."""
    with database.read() as connection:
        namespace = namespaces.find(connection, scope)
        found = CubeRepository(connection, namespace.id).get(cube_ids, scope) if namespace else {}
    _check_none_gone(cube_ids, found)
    return [found[cube_id] for cube_id in cube_ids]


def check_present(connection: Connection, namespace_id: int, cube_ids: Sequence[str]) -> None:
    """Raise :class:`NotFound` for a memory that was forgotten since it was chosen.

    For transactions that hold the namespace: until they end, nobody forgets anything of it.
    """
    _check_none_gone(cube_ids, CubeRepository(connection, namespace_id).existing(cube_ids))


def _check_none_gone(cube_ids: Sequence[str], found: Container[str]) -> None:
    gone = [cube_id for cube_id in cube_ids if cube_id not in found]
    if gone:
        raise NotFound(f"no memory {gone[0]!r} here; it may have been forgotten")


def _checked(given: object) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise InvalidInput("promote needs a list of the ids of memories")
    if not all(isinstance(cube_id, str) for cube_id in given):
        raise InvalidInput("the ids of memories are strings")
    return list(dict.fromkeys(given))
