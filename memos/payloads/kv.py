"""KV files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import IO, TYPE_CHECKING

from sqlalchemy import Connection

from memos.activation.bundle import BundleNote, bundle_of
from memos.activation.miss import KVMiss
from memos.activation.room import Room
from memos.clock import from_us
from memos.config import Settings
from memos.cube import Scope
from memos.payloads.base import Payload, PayloadFiles, Unusable
from memos.store.activations import Activation, ActivationRepository
from memos.store.scoped import activation_keys

if TYPE_CHECKING:
    from memos.activation.container import KVHeader
    from memos.activation.files import KVFiles


class KVPayloads(PayloadFiles):
    """The activation tier."""

    name = "kv"
    many = "KV files"
    setting = "MEMOS_KV_BYTES"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.cap = settings.kv_bytes
        self.room = Room(settings.home.expanduser() / self.name, settings.kv_bytes, settings.kv_free_bytes)

    def listed(self, connection: Connection, namespace_id: int) -> list[Payload]:
        """Return what the rows of a namespace say that there is, oldest first."""
        return list(map(_payload, ActivationRepository(connection, namespace_id).all()))

    def find(self, connection: Connection, namespace_id: int, cube_id: str) -> Payload | None:
        """Return what the row of a cube says."""
        found = ActivationRepository(connection, namespace_id).get(cube_id)
        return None if found is None else _payload(found)

    def needed(self, connection: Connection) -> set[str]:
        """Return the keys of the files that any row of the store names."""
        return activation_keys(connection)

    def hand_over(self, tenant: str, payload: Payload, take: Callable[[bytes], object]) -> None:
        """Hand the bytes of a file to ``take``. Raises :class:`Unusable`, at the end perhaps."""
        try:
            self._files.hand_over(tenant, payload.key, _record(payload).sha256, take)
        except KVMiss as miss:
            raise Unusable(miss.message, absent=miss.reason == "absent") from miss

    def adopt(self, connection: Connection, namespace_id: int, scope: Scope, payload: Payload, file: IO[bytes]) -> str:
        """Take in the file of a restored cube; see the base class."""
        repository = ActivationRepository(connection, namespace_id)
        key_of = partial(self._key, repository, scope, _record(payload))
        try:
            published = self._files.adopt(scope.tenant, file, payload.bytes, key_of)
        except KVMiss as miss:
            raise Unusable(miss.message, absent=False) from miss
        repository.set_file(payload.cube_id, published.header.key, published.sha256)
        return published.header.key

    def _key(self, repository: ActivationRepository, scope: Scope, record: Activation, header: KVHeader) -> str:
        """Return the key under which a promotion of the same notes would look for the file."""
        told = (header.cube_id, header.fingerprint, header.codec, header.sources)
        if told != (record.cube_id, record.fingerprint, record.codec, record.sources):
            raise KVMiss("key", "it is the file of another cube")
        said = repository.said(record.sources)
        if said.keys() != set(record.sources):
            raise KVMiss("sources", "it was made from versions that are not there any more")
        notes = [
            BundleNote(*source, row.text, from_us(row.valid_from if row.event_time is None else row.event_time))
            for source, row in said.items()
        ]
        place = (scope.user_id, bundle_of(notes).digest, header.fingerprint, header.codec)
        return self._files.key(scope.tenant, *place, tokens=header.token_ids)

    @cached_property
    def _files(self) -> KVFiles:
        from memos.activation.files import KVFiles

        return KVFiles(self.room.root, self._settings.kv_bytes, self._settings.kv_free_bytes)


def _payload(record: Activation) -> Payload:
    return Payload(record.cube_id, record.key, record.bytes, record)


def _record(payload: Payload) -> Activation:
    assert isinstance(payload.record, Activation)
    return payload.record
