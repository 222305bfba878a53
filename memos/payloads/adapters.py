"""Adapters and cartridges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import IO, TYPE_CHECKING

from sqlalchemy import Connection

from memos.config import Settings
from memos.cube import Scope
from memos.errors import AdapterRefused
from memos.parametric.room import TalliedRoom
from memos.payloads.base import Payload, PayloadFiles, Unusable
from memos.store.adapters import AdapterRecord, AdapterRepository
from memos.store.scoped import adapter_keys

if TYPE_CHECKING:
    from memos.parametric.container import Card
    from memos.parametric.files import AdapterFiles


class AdapterPayloads(PayloadFiles):
    """The parametric tier. One that failed its gate has no file and is not listed."""

    name = "adapters"
    many = "adapters"
    setting = "MEMOS_ADAPTER_BYTES"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.cap = settings.adapter_bytes
        root = settings.home.expanduser() / self.name
        self.room = TalliedRoom(root, settings.adapter_bytes, settings.kv_free_bytes)

    def listed(self, connection: Connection, namespace_id: int) -> list[Payload]:
        """Return what the rows of a namespace say that there is, oldest first."""
        known = map(_payload, AdapterRepository(connection, namespace_id).all())
        return [payload for payload in known if payload is not None]

    def find(self, connection: Connection, namespace_id: int, cube_id: str) -> Payload | None:
        """Return what the row of a cube says."""
        found = AdapterRepository(connection, namespace_id).get(cube_id)
        return None if found is None else _payload(found)

    def needed(self, connection: Connection) -> set[str]:
        """Return the keys of the files that any row of the store names."""
        return adapter_keys(connection)

    def hand_over(self, tenant: str, payload: Payload, take: Callable[[bytes], object]) -> None:
        """Hand the bytes of a file to ``take``. Raises :class:`Unusable`, at the end perhaps."""
        try:
            card, data = self._files.whole(tenant, payload.key)
            _check(card, _record(payload))
        except AdapterRefused as error:
            raise Unusable(error.message, absent=not self.room.path(payload.key).exists()) from error
        take(data)

    def adopt(self, connection: Connection, namespace_id: int, scope: Scope, payload: Payload, file: IO[bytes]) -> str:
        """Take in the file of a restored cube; see the base class."""
        record = _record(payload)
        if payload.bytes > self._settings.adapter_bytes:
            raise Unusable("it is larger than all adapters together may be (MEMOS_ADAPTER_BYTES)", absent=False)

        def key_of(card: Card) -> str:
            _check(card, record)
            return self._files.key_of(scope, record.series, record.digest, record.sources)

        try:
            key = self._files.adopt(scope.tenant, file.read(), key_of)
        except AdapterRefused as error:
            raise Unusable(error.message, absent=False) from error
        AdapterRepository(connection, namespace_id).set_file(payload.cube_id, key)
        return key

    @cached_property
    def _files(self) -> AdapterFiles:
        from memos.parametric.files import AdapterFiles

        return AdapterFiles(self.room.root, self._settings.adapter_bytes, self._settings.kv_free_bytes)


def _check(card: Card, record: AdapterRecord) -> None:
    if (card.digest, card.base) != (record.digest, record.base):
        raise AdapterRefused("its file is of another one")


def _payload(record: AdapterRecord) -> Payload | None:
    return None if record.key is None else Payload(record.cube_id, record.key, record.bytes, record)


def _record(payload: Payload) -> AdapterRecord:
    assert isinstance(payload.record, AdapterRecord)
    return payload.record
