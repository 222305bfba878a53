"""Rows of API keys: they belong to a tenant, not to a namespace, and hold no memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from memos.store.schema import api_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key. ``digest`` is the hex SHA-256 of its secret; times are microseconds."""

    id: str
    tenant: str
    name: str | None
    digest: str
    scopes: Sequence[str]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


#: Asked at every request, so built once.
_BY_ID, _ANY = select(api_keys).where(api_keys.c.id == bindparam("key_id")), select(api_keys.c.id).limit(1)


class ApiKeyTable:
    """Reads and writes keys within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, key_id: str) -> KeyRow | None:
        """Return a key by its id."""
        row = self._connection.execute(_BY_ID, {"key_id": key_id}).first()
        return None if row is None else _row(row)

    def any(self) -> bool:
        """Return whether there is a key at all."""
        return self._connection.scalar(_ANY) is not None

    def count(self, tenant: str) -> int:
        """Return how many keys a tenant has."""
        counted = select(func.count()).select_from(api_keys).where(api_keys.c.tenant == tenant)
        return int(self._connection.scalar(counted) or 0)

    def all(self, tenant: str | None) -> list[KeyRow]:
        """Return the keys of a tenant, or of all, oldest first."""
        statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if tenant is not None:
            statement = statement.where(api_keys.c.tenant == tenant)
        return [_row(row) for row in self._connection.execute(statement)]

    def add(self, row: KeyRow) -> None:
        """Insert a key."""
        self._connection.execute(insert(api_keys), [asdict(row)])

    def renew(self, key_id: str, tenant: str | None, digest: str) -> KeyRow | None:
        """Replace the digest of a key that is not revoked; return it, ``None`` if there is none."""
        return self._change(key_id, tenant, digest=digest)

    def revoke(self, key_id: str, tenant: str | None, now: int) -> KeyRow | None:
        """End a key; return it, ``None`` if there is none."""
        return self._change(key_id, tenant, revoked_at=now)

    def _change(self, key_id: str, tenant: str | None, **values: object) -> KeyRow | None:
        statement = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        if tenant is not None:
            statement = statement.where(api_keys.c.tenant == tenant)
        row = self._connection.execute(statement.values(**values).returning(api_keys)).first()
        return None if row is None else _row(row)


def _row(row: Row[tuple[object, ...]]) -> KeyRow:
    return KeyRow(**row._mapping)
