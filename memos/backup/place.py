"""Where a backup is written: beside its target, under a name that says so, until it is whole and on the disk.

What a killed process leaves there is removed by the next backup to the same target, which sees that nobody holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memos.activation.keys import sync_folder
from memos.errors import InvalidInput, MemosError, StoreFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def taking_place_of(target: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new file or folder, readable by its owner alone, that becomes ``target`` once the block has ended well.

    A file that is there is replaced then; a folder must be empty or missing. On any failure ``target`` is as it was.
    Raises :class:`InvalidInput` and :class:`StoreFull`.
    """
    target = target.absolute()
    _check(target, folder=folder)
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    handle = None
    try:
        _remove_abandoned(target)
        handle = _made(part, folder=folder)
        yield part
        os.fsync(handle)
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        _remove(part)
        if handle is not None:
            os.close(handle)


def _check(target: Path, *, folder: bool) -> None:
    if folder and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InvalidInput(f"{target} is there already; name a new folder, or a file that ends in .tar or .tar.zst")
    if not folder and target.exists() and not target.is_file():
        raise InvalidInput(f"{target} is not a file; name the file to write")


def _made(part: Path, *, folder: bool) -> int:
    """Make it and hold it, as long as what is returned is open."""
    if folder:
        part.mkdir(mode=0o700)
        handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _remove_abandoned(target: Path) -> None:
    for part in target.parent.glob(f".{_escaped(target.name[:100])}.{'[0-9a-f]' * 16}.part"):
        with suppress(OSError):
            handle = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(part)
            finally:
                os.close(handle)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _unwritable(target: Path, error: OSError) -> MemosError:
    if error.errno in _FULL:
        return StoreFull(f"no space left to write {target}; nothing was written")
    return InvalidInput(f"{target} cannot be written: {error.strerror}")
