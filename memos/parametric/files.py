"""The files of adapters and cartridges in a data directory: published whole or not at all, checked whenever read.

root/secret                     what all of them are sealed with (memos/activation/keys.py)
root/lock  root/tally           held while room is reserved; how much is taken at most (room.py)
root/ab/ab34...safetensors      a file by its key (container.py); folders 0700, files 0600
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from memos.activation.keys import TenantSecrets, storage_key, sync_folder
from memos.activation.room import failure
from memos.activation.writing import write_pieces
from memos.cube import Scope
from memos.errors import AdapterRefused
from memos.parametric.checks import Trained
from memos.parametric.container import Card, compose, open_container, resealed
from memos.parametric.room import WORDS, TalliedRoom
from memos.store.lineage import Source

#: The key of a file before it is known which it is.
_NAMELESS = "0" * 64


@dataclass(frozen=True, slots=True)
class Published:
    """A file that is on the disk. ``made`` is false where a good one of its key was there already."""

    bytes: int
    made: bool


class AdapterFiles:
    """Publishes, reads and removes files below ``root``; together they never exceed ``cap_bytes``.

    A publication leaves at least ``free_floor_bytes`` of the disk free, and takes no longer with many files than with
    few. Any number of threads and processes may share a root. Raises :class:`StoreUnavailable` when it cannot be used.
    """

    def __init__(self, root: Path, cap_bytes: int, free_floor_bytes: int) -> None:
        self._root = root
        self._secrets = TenantSecrets(root)
        self._room = TalliedRoom(root, cap_bytes, free_floor_bytes)

    def key_of(self, scope: Scope, series: str, digest: str, sources: Sequence[Source]) -> str:
        """Return the storage key of what a user has trained: of one series, content and lineage."""
        lineage = [f"{cube_id}@{version}" for cube_id, version in sources]
        return self.key(scope.tenant, scope.user_id, series, digest, *lineage)

    def key(self, tenant: str, *parts: str) -> str:
        """Return the storage key of what these parts describe, which nobody without the tenant's secret can tell."""
        return storage_key(self._secrets.of(tenant), "adapter", *parts, tokens=())

    def publish(self, tenant: str, card: Card, trained: Trained) -> Published:
        """Write a file and give it its name once its bytes are on the disk; a good one of that key stays.

        Raises :class:`StoreFull` for want of room, before anything is written, and :class:`StoreUnavailable`.
        """
        if (standing := self._standing(tenant, card.key)) is not None:
            return standing
        return self._written(tenant, card.key, compose(card, trained, self._secrets.of(tenant)))

    def adopt(self, tenant: str, data: bytes, key_of: Callable[[Card], str]) -> str:
        """Take in a file that another store published, under the key it has here, sealed with the secret of here.

        Return the key. Raises :class:`AdapterRefused`, :class:`StoreFull` and :class:`StoreUnavailable`.
        """
        secret = self._secrets.of(tenant)
        card, _ = open_container(resealed(data, _NAMELESS, secret), _NAMELESS, secret)
        key = key_of(card)
        if self._standing(tenant, key) is None:
            self._written(tenant, key, resealed(data, key, secret))
        return key

    def whole(self, tenant: str, key: str) -> tuple[Card, bytes]:
        """Return what a file says of itself, and the file, once all of it was checked. Raises as :meth:`read`."""
        data = _bytes_of(self._room.path(key))
        card, _ = open_container(data, key, self._secrets.of(tenant))
        return card, data

    def read(self, tenant: str, key: str) -> tuple[Card, Trained]:
        """Return what the file of a key holds. Raises :class:`AdapterRefused` saying what is wrong with it."""
        return open_container(_bytes_of(self._room.path(key)), key, self._secrets.of(tenant))

    def remove(self, key: str) -> bool:
        """Remove a file; return whether it is gone now, which it also is if there was none."""
        return self._room.remove(key)

    def sweep(self, live_keys: Collection[str]) -> int:
        """Do what :meth:`memos.activation.room.Room.sweep` does."""
        return self._room.sweep(live_keys)

    # ------------------------------------------------------------ inside

    def _written(self, tenant: str, key: str, content: bytes) -> Published:
        path, data = self._room.path(key), memoryview(content)
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self._root)
            with self._room.reserve(path.parent, data.nbytes) as (handle, temporary):
                write_pieces(handle, [data])
                if (standing := self._take_place(tenant, temporary, path, key)) is not None:
                    return standing
                sync_folder(path.parent)
        except OSError as error:
            raise failure(error, self._root, WORDS) from error
        return Published(data.nbytes, made=True)

    def _standing(self, tenant: str, key: str) -> Published | None:
        path = self._room.path(key)
        if not path.exists():
            return None
        try:
            self.read(tenant, key)
        except AdapterRefused:
            return None
        return Published(path.stat().st_size, made=False)

    def _take_place(self, tenant: str, temporary: Path, path: Path, key: str) -> Published | None:
        """Give the file its name, unless a good one of another writer has it: the first one stays."""
        try:
            os.link(temporary, path)
        except FileExistsError:
            standing = self._standing(tenant, key)
            if standing is None:
                temporary.replace(path)
            return standing
        return None


def _bytes_of(path: Path) -> bytes:
    """Read a file that is really one: a pipe would block, a link could lead anywhere."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with io.FileIO(str(path), opener=lambda name, _flags: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise AdapterRefused("its file is no file")
            return file.readall()
    except FileNotFoundError as error:
        raise AdapterRefused("its file is not there") from error
    except OSError as error:
        raise AdapterRefused(f"its file cannot be read: {error.strerror}") from error
