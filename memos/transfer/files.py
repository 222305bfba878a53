"""Files at the edge: written whole or not at all, read with every failure named."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from memos.cube import MAX_NAME_LENGTH
from memos.errors import InvalidInput, MemosError, StoreFull
from memos.transfer.report import RejectedLine

#: What is looked at to tell text from binary, and the share of unprintable characters that text may have.
_HEAD = 8_192
_NOISE = 0.1
_CONTROL = frozenset(map(chr, {*range(32), 127} - {8, 9, 10, 12, 13, 27})) | {"\ufffd"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` once the block has ended well and its bytes are on the disk.

    It is readable by its owner alone. On any failure ``path`` is as it was, and nothing else is left.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise InvalidInput(f"{path} is not a file; name the file to write")
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot; the file itself is safe by now
            os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> MemosError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFull(f"no space left to write {path}; nothing was written")
    return InvalidInput(f"{path} cannot be written: {error.strerror}")


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a text file, as UTF-8 without a byte order mark."""

    path: Path
    data: bytes

    @property
    def name(self) -> str:
        """The file's name without its suffix, fit to name a run."""
        name = self.path.stem.encode("utf-8", "replace").decode()
        clean = "".join(character for character in name if character >= " ").strip()
        return clean[: MAX_NAME_LENGTH // 2].strip() or "import"

    def lines(self) -> Iterator[tuple[int, str] | RejectedLine]:
        """Yield the lines, numbered from 1; one that is not UTF-8 as a rejection."""
        lines = self.data.split(b"\n")
        for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
            try:
                yield number, line.removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}"
                yield RejectedLine(line=number, reason=reason)

    def readable(self, most: int) -> list[str]:
        """Return up to ``most`` lines that are neither blank nor broken: what a format is told by."""
        found: list[str] = []
        for line in self.lines():
            if len(found) == most:
                break
            if not isinstance(line, RejectedLine) and line[1].strip():
                found.append(line[1])
        return found


def read_source(path: Path) -> Source:
    """Read a text file. Raises :class:`InvalidInput` for one that is missing, empty, unreadable, binary or no file."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InvalidInput(f"{path} is a folder; import its files one by one")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise InvalidInput(f"{path} is a device or a socket, not a file")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(f"{path} cannot be read: {reason}") from error
    return Source(path, _as_utf8(path, data))


def _as_utf8(path: Path, data: bytes) -> bytes:
    if data.startswith(_UTF16):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeError as error:
            raise InvalidInput(f"{path} begins like UTF-16 but is not: {error}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip():
        raise InvalidInput(f"{path} is empty")
    head = data[:_HEAD].decode(errors="replace")
    noise = sum(character in _CONTROL for character in head)
    if noise > _NOISE * len(head):
        raise InvalidInput(f"{path} is not a text file in UTF-8")
    return data
