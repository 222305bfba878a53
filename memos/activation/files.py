"""The KV files of a data directory: published whole or not at all, checked before they are used.

root/secret                     what all of them are sealed with (keys.py)
root/lock                       held while room is reserved
root/ab/ab34...safetensors      a file by its key (layout.py); folders 0700, files 0600
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from memos.activation.codecs.base import Encoded
from memos.activation.container import KVHeader
from memos.activation.keys import TenantSecrets, storage_key, sync_folder
from memos.activation.layout import MAX_HEADER, compose, resealed
from memos.activation.miss import KVMiss
from memos.activation.opened import CHUNK, Expected, Opened, open_file, read_arrays, room_for
from memos.activation.room import SUFFIX, Room, failure, is_key
from memos.activation.writing import digest_of, write_all, write_out

#: The key of a file before it is known which it is.
_NAMELESS = "0" * 64


@dataclass(frozen=True, slots=True)
class Published:
    """A file that is on the disk. ``made`` is false where an equal one was there already, which ``header`` is of."""

    header: KVHeader
    path: Path
    bytes: int
    sha256: str
    made: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a scan found and that is, all but its layers, as it was written."""

    header: KVHeader
    path: Path
    bytes: int

    @property
    def sha256(self) -> str:
        """The digest of the file as it is now. Raises :class:`KVMiss`."""
        return digest_of(self.path)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that a scan found and that cannot be used, or is another tenant's (``seal``)."""

    path: Path
    reason: str
    message: str


class KVFiles:
    """Publishes, opens and removes KV files below ``root``; together they never exceed ``cap_bytes``.

    A publication leaves at least ``free_floor_bytes`` of the disk free. Any number of threads and processes may share
    a root. Raises :class:`StoreUnavailable` when ``root`` cannot be used.
    """

    def __init__(self, root: Path, cap_bytes: int, free_floor_bytes: int) -> None:
        self._root = root
        self._secrets = TenantSecrets(root)
        self._room = Room(root, cap_bytes, free_floor_bytes)

    def key(self, tenant: str, *parts: str, tokens: Sequence[int]) -> str:
        """Return the storage key of what these parts and token ids describe."""
        return storage_key(self._secrets.of(tenant), *parts, tokens=tokens)

    # ------------------------------------------------------------ writing

    def publish(self, tenant: str, header: KVHeader, encoded: Encoded) -> Published:
        """Write a file and give it its name once its bytes are on the disk.

        The name itself is not waited for: if power is lost right then, the file is missing, and that is a miss. Where a
        good file of that key stands, it stays. Raises :class:`StoreFull` for want of room, before anything is written
        wherever that can be known, and :class:`StoreUnavailable`.
        """
        path = self._path(header.key)
        if (standing := self._standing(tenant, header.key)) is not None:
            return standing
        header = replace(header, parameters=encoded.parameters)
        pieces = compose(header, encoded, self._secrets.of(tenant))
        size = sum(piece.nbytes for piece in pieces)
        try:
            self._make_folder(path.parent)
            with self._room.reserve(path.parent, size) as (handle, temporary):
                sha256 = write_out(handle, pieces)
                if (standing := self._take_place(tenant, temporary, path)) is not None:
                    return standing
        except OSError as error:
            raise failure(error, self._root) from error
        return Published(header, path, size, sha256, made=True)

    def adopt(self, tenant: str, source: IO[bytes], size: int, key_of: Callable[[KVHeader], str]) -> Published:
        """Take in a file that another store published, under the key it has here, sealed with the secret of here.

        Raises :class:`KVMiss` if it is no whole KV file, :class:`StoreFull` and :class:`StoreUnavailable`.
        """
        try:
            self._make_folder(self._root / _NAMELESS[:2])
            with self._room.reserve(self._root / _NAMELESS[:2], size) as (handle, temporary):
                while data := source.read(CHUNK):
                    write_all(handle, memoryview(data))
                with self._resealed(tenant, handle, temporary, _NAMELESS) as opened:
                    key = key_of(opened.header)
                with self._resealed(tenant, handle, temporary, key) as opened:
                    header = opened.header
                    _check_layers(opened)
                os.fsync(handle)
                sha256, path = digest_of(temporary), self._path(key)
                self._make_folder(path.parent)
                if (standing := self._take_place(tenant, temporary, path)) is not None:
                    return standing
        except OSError as error:
            raise failure(error, self._root) from error
        return Published(header, path, size, sha256, made=True)

    def remove(self, key: str) -> bool:
        """Remove a file; return whether it is gone now, which it also is if there was none."""
        return self._room.remove(key)

    def sweep(self, live_keys: Collection[str]) -> int:
        """Do what :meth:`Room.sweep` does."""
        return self._room.sweep(live_keys)

    # ------------------------------------------------------------ reading

    def open(self, tenant: str, key: str, expected: Expected) -> Opened:
        """Open the file of a key. Raises :class:`KVMiss` with the reason why it cannot be used."""
        opened = self._open(tenant, key)
        try:
            expected.check(opened.header)
        except KVMiss:
            opened.close()
            raise
        return opened

    def verify(self, tenant: str, key: str, sha256: str | None = None) -> str | None:
        """Read a file whole; return what is wrong with it, if anything. ``sha256`` is what its digest has to be."""
        try:
            with self._open(tenant, key) as opened:
                _check_layers(opened)
            if sha256 is not None and digest_of(self._path(key)) != sha256:
                raise KVMiss("checksum", "it is whole, but not the file that was published")
        except KVMiss as miss:
            return str(miss)
        return None

    def hand_over(self, tenant: str, key: str, sha256: str, take: Callable[[bytes], object]) -> None:
        """Hand a file to ``take``, piece by piece. Raises :class:`KVMiss`, at its end, if it is not what was published.

        ``sha256`` is that of what was.
        """
        digest = hashlib.sha256()
        with self._open(tenant, key) as opened:
            for data in _pieces(opened.file):
                digest.update(data)
                take(data)
        if digest.hexdigest() != sha256:
            raise KVMiss("checksum", "it is not the file that was published")

    def scan(self, tenant: str) -> Iterator[Found | Rejected]:
        """Yield a tenant's files, as far as can be told without reading their layers, and what is none of them."""
        for entry in self._room.entries():
            if entry.temporary:
                continue
            try:
                with self._open(tenant, entry.key) as opened:
                    yield Found(opened.header, entry.path, opened.bytes)
            except KVMiss as miss:
                yield Rejected(entry.path, miss.reason, miss.message)

    def usage(self) -> int:
        """Return the bytes of all files, counted on the disk."""
        return self._room.used()

    # ------------------------------------------------------------ inside

    def _path(self, key: str) -> Path:
        return self._room.path(key)

    def _open(self, tenant: str, key: str) -> Opened:
        if not is_key(key):
            raise KVMiss("key", "that is not a storage key")
        return open_file(self._path(key), key, self._secrets.of(tenant))

    def _resealed(self, tenant: str, handle: int, path: Path, key: str) -> Opened:
        """Seal the file at ``path``, open in ``handle``, under a key, and open it as any other."""
        length = int.from_bytes(os.pread(handle, 8, 0), "little")
        if length > MAX_HEADER:
            raise KVMiss("format", f"a header of {length} bytes")
        os.pwrite(handle, resealed(os.pread(handle, length, 8), key, self._secrets.of(tenant)), 0)
        return open_file(path, key, self._secrets.of(tenant))

    def _standing(self, tenant: str, key: str) -> Published | None:
        """Return the file of a key if there is one and it is whole."""
        if self.verify(tenant, key) is not None:
            return None
        try:
            with self._open(tenant, key) as opened:
                path = self._path(key)
                return Published(opened.header, path, opened.bytes, digest_of(path), made=False)
        except KVMiss:
            return None

    def _take_place(self, tenant: str, temporary: Path, path: Path) -> Published | None:
        """Give the file its name, unless a good one of another writer has it: the first one stays."""
        try:
            os.link(temporary, path)
        except FileExistsError:
            standing = self._standing(tenant, path.name.removesuffix(SUFFIX))
            if standing is None:
                temporary.replace(path)
            return standing
        return None

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._root)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    try:
        while data := file.read(CHUNK):
            yield data
    except OSError as error:
        raise KVMiss("io", f"it cannot be read: {error.strerror}") from error


def _check_layers(opened: Opened) -> None:
    """Read every layer. Raises :class:`KVMiss`."""
    room = room_for(*opened.layers)
    for layer in opened.layers:
        read_arrays(opened.file, layer, room)
