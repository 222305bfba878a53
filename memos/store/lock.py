"""One process at a time per embedded data directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from memos.errors import StoreError, StoreFull, StoreInUse, StoreUnavailable

_NAME = "memos.lock"


class DirectoryLock:
    """An advisory lock on a data directory, released when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise StoreInUse(
                f"the store in {folder} is open in process {holder}; close it there, or share one store between "
                f"processes by setting MEMOS_DATABASE_URL and MEMOS_CHROMA_URL",
                process=holder,
            ) from error
        except OSError as error:  # some network file systems have no locks
            os.close(self._file)
            raise _unusable(folder, error) from error
        with contextlib.suppress(OSError):  # on a full disk the message of others is less helpful
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let another process open the directory."""
        os.close(self._file)


def _unusable(folder: Path, error: OSError) -> StoreError:
    kind = StoreFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StoreUnavailable
    return kind(f"the data directory {folder} cannot be used: {error.strerror}")
