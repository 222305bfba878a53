"""What must be kept, and how long the rest is: legal holds and retention, as callers set them."""

from __future__ import annotations

from collections.abc import Sequence

from memos.cube import Kind, Scope, check_name
from memos.errors import InvalidInput, NotFound
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.holds import Hold, HoldRepository, Retention, RetentionRepository
from memos.store.once import record
from memos.store.records import Audit
from memos.store.scoped import locate_hold

#: A hundred years: longer than anybody wants to say in days.
MOST_DAYS = 36_525


class Keeping:
    """Holds and retention of every namespace. What is decided here is done by the deletions themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, scope: Scope, cube_id: str | None, reason: str | None) -> Hold:
        """Let no deletion reach a memory, or any of the scope's user where ``cube_id`` is None, until it is released.

        Cubes that were made from memories can be made again: they are not held.
        """
        check_name(reason, "reason")
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            if cube_id is not None:
                cube = CubeRepository(connection, namespace.id).get([cube_id], scope).get(cube_id)
                if cube is None or cube.kind is not Kind.PLAINTEXT:
                    raise InvalidInput(f"{cube_id!r} is no memory but a cube made from some; hold those")
            holds = HoldRepository(connection, namespace.id)
            hold_id = holds.add(cube_id, reason)
            Audit(connection, namespace.id).add("hold", cube_id, hold=hold_id)
            made = holds.get(hold_id, scope.user_id)
            assert made is not None  # written in this transaction
            record(connection, namespace.id, report=made.model_dump(mode="json"))
        return made

    def release(self, tenant: str, hold_id: str) -> Hold:
        """End a hold; return it as it was. Raises :class:`NotFound`."""
        with self._database.write() as connection:
            scope = locate_hold(connection, tenant, hold_id)
            namespace = namespaces.open_for_write(connection, scope)
            holds = HoldRepository(connection, namespace.id)
            hold = holds.get(hold_id, scope.user_id)
            if hold is None:
                raise NotFound(f"no legal hold {hold_id!r} here; it may have been released")
            holds.remove(hold_id)
            Audit(connection, namespace.id).add("release", hold.cube_id, hold=hold_id)
            record(connection, namespace.id, report=hold.model_dump(mode="json"))
        return hold

    def holds(self, scope: Scope) -> Sequence[Hold]:
        """Return the holds on memories of a user, oldest first."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            return [] if namespace is None else HoldRepository(connection, namespace.id).all(scope.user_id)

    def retain(self, scope: Scope, days: object) -> Retention:
        """Keep memories of a user so many days; 0 is for good."""
        if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= MOST_DAYS:
            raise InvalidInput(f"days must be a whole number from 0 (for good) to {MOST_DAYS}, not {days!r}")
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, scope)
            RetentionRepository(connection, namespace.id).keep(days or None)
            Audit(connection, namespace.id).add("retention", days=days)
            kept = Retention(user_id=scope.user_id, days=days or None)
            record(connection, namespace.id, report=kept.model_dump(mode="json"))
        return kept

    def retention(self, scope: Scope) -> Retention:
        """Return how long memories of a user are kept."""
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            days = None if namespace is None else RetentionRepository(connection, namespace.id).days()
        return Retention(user_id=scope.user_id, days=days)
