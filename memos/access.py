"""Who may ask: API keys, each of one tenant, with scopes, an end and a digest instead of the key itself.

A key is ``memos_<id>_<secret>`` with 256 random bits, so one SHA-256 protects it as well as a slow hash would and costs
a microsecond. It is looked up at every request: what is revoked or rotated ends with the request before.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from memos.clock import from_us, now_us, parse_time, to_us
from memos.cube import DEFAULT_TENANT, Frozen, check_name
from memos.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from memos.store.api_keys import ApiKeyTable, KeyRow
from memos.store.database import Database

PREFIX = "memos"
_KEY = re.compile(rf"{PREFIX}_([0-9a-f]{{16}})_([\w-]{{43}})", re.ASCII)
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
_MOST_KEYS = 10_000


class Permission(StrEnum):
    """What a key allows: ``read`` and ``write`` memories, ``admin``ister the tenant's keys."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class ApiKey(Frozen):
    """A key as it can be shown: without its secret. ``active`` is false once it is revoked or past its end."""

    id: str
    tenant: str
    name: str | None = None
    scopes: tuple[Permission, ...]
    active: bool
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(ApiKey):
    """A key as its maker sees it, once: ``key`` is what a client sends."""

    key: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the tenant comes from here and from nowhere else. ``key_id`` is None for a local user without a key."""

    tenant: str
    scopes: frozenset[Permission]
    key_id: str | None = None


LOCAL = Principal(DEFAULT_TENANT, frozenset(Permission))


class Access:
    """The keys of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def admit(self, token: str | None, permission: Permission, *, local: bool) -> Principal:
        """Return whose request it is.

        Without any key in the store, whoever asks from this machine (``local``) is the tenant ``default``. Raises
        :class:`Unauthenticated` and :class:`Forbidden`.
        """
        found = self._known(token) if token is not None else None
        if found is None:
            found = self._without_key(token, local=local)
        if permission not in found.scopes:
            raise Forbidden(f"this API key has no {permission.value!r} scope")
        return found

    def any(self) -> bool:
        """Return whether there is, or ever was, a key: from then on nobody is let in without one."""
        with self._database.read() as connection:
            return ApiKeyTable(connection).any()

    def create(
        self,
        tenant: str,
        scopes: object,
        *,
        name: str | None = None,
        expires_at: datetime | str | None = None,
    ) -> NewKey:
        """Make a key; its text is returned now and never again."""
        check_name(tenant, "tenant")
        check_name(name, "name")
        end = parse_time(expires_at, "expires_at")
        now = now_us()
        if end is not None and to_us(end) <= now:
            raise InvalidInput(f"expires_at lies in the past: {end.isoformat()}")
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = KeyRow(
            id=key_id,
            tenant=tenant,
            name=name,
            digest=_digest(secret),
            scopes=[scope.value for scope in check_scopes(scopes)],
            created_at=now,
            expires_at=None if end is None else to_us(end),
        )
        with self._database.write() as connection:
            table = ApiKeyTable(connection)
            if table.count(tenant) >= _MOST_KEYS:
                raise InvalidInput(f"tenant {tenant!r} has {_MOST_KEYS} keys; that is the most")
            table.add(row)
        return _new(row, secret)

    def list(self, tenant: str | None = None) -> Sequence[ApiKey]:
        """Return the keys of a tenant, or of all, oldest first."""
        with self._database.read() as connection:
            return [ApiKey(**_shown(row)) for row in ApiKeyTable(connection).all(tenant)]

    def rotate(self, key_id: str, tenant: str | None = None) -> NewKey:
        """Give a key another secret: the old text ends at once. Raises :class:`NotFound`."""
        secret = secrets.token_urlsafe(32)
        with self._database.write() as connection:
            row = ApiKeyTable(connection).renew(key_id, tenant, _digest(secret))
        if row is None:
            raise NotFound(f"no active API key {key_id!r} here")
        return _new(row, secret)

    def revoke(self, key_id: str, tenant: str | None = None) -> ApiKey:
        """End a key at once. Raises :class:`NotFound`."""
        with self._database.write() as connection:
            row = ApiKeyTable(connection).revoke(key_id, tenant, now_us())
        if row is None:
            raise NotFound(f"no active API key {key_id!r} here")
        return ApiKey(**_shown(row))

    # ------------------------------------------------------------ inside

    def _without_key(self, token: str | None, *, local: bool) -> Principal:
        """Return the local user, as long as there is no key; some clients must send one, whatever it is."""
        if local and not self.any():
            return LOCAL
        if token is not None:
            raise Unauthenticated("this API key is unknown, revoked or past its end")
        raise Unauthenticated("an API key is needed: send it as `Authorization: Bearer memos_...`")

    def _known(self, token: str) -> Principal | None:
        key_id, secret = _parted(token)
        with self._database.read() as connection:
            row = ApiKeyTable(connection).find(key_id)
        right = hmac.compare_digest(_digest(secret), row.digest if row else _NOBODY)
        if row is None or not right or not _active(row):
            return None
        return Principal(row.tenant, frozenset(map(Permission, row.scopes)), row.id)


def check_scopes(given: object) -> tuple[Permission, ...]:
    """Return scopes, in their order. Raises :class:`InvalidInput`."""
    named = given if isinstance(given, list | tuple | set | frozenset) else ()
    known = {scope.value: scope for scope in Permission}
    if not named or any(not isinstance(one, str) or one not in known for one in named):
        raise InvalidInput(f"scopes are a list of {', '.join(known)}, not {given!r}")
    return tuple(scope for value, scope in known.items() if value in named)


def _parted(token: str) -> tuple[str, str]:
    """Return id and secret of a key; of anything else, an id that nobody has."""
    match = _KEY.fullmatch(token)
    return (match[1], match[2]) if match else ("", token)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _active(row: KeyRow) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now_us())


def _new(row: KeyRow, secret: str) -> NewKey:
    return NewKey(**_shown(row), key=f"{PREFIX}_{row.id}_{secret}")


def _shown(row: KeyRow) -> dict[str, object]:
    return {
        "id": row.id,
        "tenant": row.tenant,
        "name": row.name,
        "scopes": tuple(row.scopes),
        "active": _active(row),
        "created_at": from_us(row.created_at),
        "expires_at": None if row.expires_at is None else from_us(row.expires_at),
        "revoked_at": None if row.revoked_at is None else from_us(row.revoked_at),
    }
