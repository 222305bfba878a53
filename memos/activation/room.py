"""How much room files of a tier take, and may take. Counted from the disk: there is no counter to go wrong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memos.activation.keys import sync_folder
from memos.errors import StoreError, StoreFull, StoreUnavailable

SUFFIX = ".safetensors"
TEMPORARY = ".tmp"
_LOCK = "lock"
_KEY = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Words:
    """What the files of a room are called, and where a reader can make room for more."""

    one: str = "a KV file"
    many: str = "KV files"
    cap: str = "MEMOS_KV_BYTES"
    remove: str = "memos kv rm"


KV = Words()


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below the root: a published one, or the temporary one of a publication."""

    path: Path
    bytes: int
    temporary: bool

    @property
    def key(self) -> str:
        """The storage key a published file's name says."""
        return self.path.name.removesuffix(SUFFIX)


class Room:
    """The files below a root, a hard cap on their bytes, and the free space they must leave."""

    def __init__(self, root: Path, cap_bytes: int, free_floor_bytes: int, words: Words = KV) -> None:
        self.root = root
        self._words = words
        self._cap = cap_bytes
        self._floor = free_floor_bytes

    def entries(self) -> Iterator[Entry]:
        """Yield every file, published or being written. Raises :class:`StoreUnavailable`."""
        try:
            for folder in os.scandir(self.root):
                if len(folder.name) == 2 and folder.is_dir(follow_symlinks=False):
                    yield from _entries(folder.path)
        except OSError as error:
            raise failure(error, self.root, self._words) from error

    def used(self) -> int:
        """Return the bytes of all files, including what is being written."""
        return sum(entry.bytes for entry in self.entries())

    def path(self, key: str) -> Path:
        """Return where the file of a key is, or would be. Raises ``ValueError`` for what is no key."""
        if not is_key(key):
            raise ValueError(f"{key!r} is not a storage key")
        return self.root / key[:2] / f"{key}{SUFFIX}"

    def remove(self, key: str) -> bool:
        """Remove a file; return whether it is gone now, which it also is if there was none."""
        path = self.path(key)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)
        except OSError:
            return False
        return True

    def sweep(self, live_keys: Collection[str]) -> int:
        """Remove what killed publications left, and files of no live key; return how many.

        Nobody may publish meanwhile (:mod:`memos.activation.publishing`). Raises :class:`StoreUnavailable`.
        """
        try:
            with self.locked():
                entries = list(self.entries())
                stale = [entry.path for entry in entries if entry.temporary and abandoned(entry.path)]
        except OSError as error:
            raise failure(error, self.root, self._words) from error
        orphans = [entry.path for entry in entries if not entry.temporary and entry.key not in live_keys]
        return sum(_unlinked(path) for path in [*stale, *orphans])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other thread and process from reserving room, and from sweeping."""
        with locked(self.root / _LOCK):
            yield

    @contextmanager
    def reserve(self, folder: Path, size: int) -> Iterator[tuple[int, Path]]:
        """Make a temporary file of ``size`` bytes in ``folder``, open for writing; remove its name in the end.

        Its blocks are allocated first: a full disk shows before anything is written. It stays locked while it is open,
        so that :func:`abandoned` can tell it from what a killed process left. Raises :class:`StoreFull`.
        """
        path = folder / f".{secrets.token_hex(12)}{TEMPORARY}"
        with contextlib.ExitStack() as undo:
            with self.locked():
                self._admit(size)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, handle)
                undo.callback(path.unlink, missing_ok=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
                os.posix_fallocate(handle, 0, size)
            yield handle, path

    def _admit(self, size: int) -> None:
        """Raise :class:`StoreFull` unless there is room for a file; called with the lock held."""
        self._check(size, self.used())

    def _check(self, size: int, used: int) -> None:
        words = self._words
        if used + size > self._cap:
            raise StoreFull(
                f"{words.many} take {used:,} of {self._cap:,} bytes and one more needs {size:,}; "
                f"raise {words.cap}, or remove some with `{words.remove}`"
            )
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self._floor:
            raise StoreFull(
                f"{words.one} of {size:,} bytes would leave less than {self._floor:,} of {free:,} free bytes; "
                f"make room on the disk, lower MEMOS_KV_FREE_BYTES, or remove {words.many} with `{words.remove}`"
            )


def is_key(text: str) -> bool:
    """Whether ``text`` has the form of a storage key."""
    return _KEY.fullmatch(text) is not None


def _unlinked(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _entries(folder: str) -> Iterator[Entry]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        for file in found:
            temporary = file.name.endswith(TEMPORARY)
            if temporary or file.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat(follow_symlinks=False)
                    linked = temporary and status.st_nlink > 1  # published already, and counted there
                    yield Entry(Path(file.path), 0 if linked else status.st_size, temporary)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep every other thread and process from locking a file, made if need be, until the block or the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def abandoned(path: Path) -> bool:
    """Whether the process that wrote a temporary file is gone."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)  # to write, or NFS knows no lock
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def failure(error: OSError, path: Path, words: Words = KV) -> StoreError:
    """Return the error that a failed write is for a caller."""
    if error.errno in _FULL:
        return StoreFull(
            f"no space left for {words.many} in {path}; nothing was stored. Make room on the disk, or remove some with "
            f"`{words.remove}`"
        )
    return StoreUnavailable(f"{words.many} in {path} cannot be written or listed: {error.strerror}")
