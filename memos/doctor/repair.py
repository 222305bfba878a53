"""Putting right what can be: what is derived from memories is dropped or made again, and memories are never touched.

Each repair looks again, in the transaction that makes it, whether the damage is still there: twice is as good as once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from memos.cube import Frozen, Scope
from memos.doctor.damage import Damage, Harm
from memos.payloads.base import PayloadFiles
from memos.plaintext.analysis import terms
from memos.store import namespaces
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.derived import Derived, Gone
from memos.store.health import Health
from memos.store.namespaces import Namespace
from memos.store.records import Audit

#: Carries the end of derived cubes to every place outside SQL.
Discard = Callable[[Scope, Gone], object]


class Action(Frozen):
    """Something that was put right. ``namespace`` is ``None`` for what belonged to none."""

    harm: str
    done: str
    namespace: str | None = None
    cube_id: str | None = None


class Mender:
    """Repairs damage. Unless ``absent_too``, a file that is not there may be in another process's data directory."""

    def __init__(
        self,
        database: Database,
        tiers: Sequence[PayloadFiles],
        discard: Discard,
        rebuild: Callable[[int], None],
        *,
        absent_too: bool,
    ) -> None:
        self._database = database
        self._tiers = {tier.name: tier for tier in tiers}
        self._discard = discard
        self._rebuild = rebuild
        self._absent_too = absent_too

    def mend(self, damage: Damage) -> Action | None:
        """Put one thing right and return what was done; ``None`` if it is right by now, or cannot be put right."""
        if damage.harm is Harm.TEXT or (damage.harm is Harm.LOST and not self._absent_too):
            return None
        done = {
            Harm.LOST: self._drop,
            Harm.DAMAGED: self._drop,
            Harm.TERMS: self._write_terms,
            Harm.INDEX: self._build_index,
            Harm.COUNT: self._count,
        }[damage.harm](damage)
        if done is None:
            return None
        return Action(harm=damage.harm.value, done=done, namespace=damage.name, cube_id=damage.cube_id)

    def _drop(self, damage: Damage) -> str | None:
        assert damage.tier is not None  # a file's
        assert damage.cube_id is not None
        tier = self._tiers[damage.tier]
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, damage.scope)
            payload = tier.find(connection, namespace.id, damage.cube_id)
            if payload is None or tier.check(damage.scope.tenant, payload, lambda _: None) is None:
                return None
            gone = Derived(connection, namespace.id).lose([damage.cube_id])
            self._note(connection, namespace, damage)
        self._discard(damage.scope, gone)
        if gone.activations:
            return f"dropped a KV file ({damage.detail}): chats compute anew what it held"
        if gone.jobs:
            return f"dropped an adapter ({damage.detail}): it is trained again from its memories"
        return f"dropped an adapter that is not served or was imported ({damage.detail})"

    def _write_terms(self, damage: Damage) -> str | None:
        assert damage.cube_id is not None
        assert damage.version is not None
        with self._database.write() as connection:
            namespace = namespaces.open_for_write(connection, damage.scope)
            cubes = CubeRepository(connection, namespace.id)
            row = cubes.content([damage.cube_id]).get((damage.cube_id, damage.version))
            if row is None:
                return None
            cubes.set_terms(damage.cube_id, damage.version, " ".join(terms(row.text)), namespace.revision)
            self._note(connection, namespace, damage)
        return "wrote the lexical terms of a text anew"

    def _build_index(self, damage: Damage) -> str:
        self._rebuild(damage.namespace_id)
        with self._database.write() as connection:
            self._note(connection, namespaces.lock(connection, damage.namespace_id), damage)
        return f"built the vector index anew ({damage.detail})"

    def _count(self, damage: Damage) -> str:
        with self._database.write() as connection:
            namespace = namespaces.lock(connection, damage.namespace_id)
            namespaces.set_memories(connection, namespace.id, Health(connection, namespace.id).memories())
            self._note(connection, namespace, damage)
        return "counted the memories anew"

    def _note(self, connection: Connection, namespace: Namespace, damage: Damage) -> None:
        Audit(connection, namespace.id).add("repair", damage.cube_id, harm=damage.harm.value)
