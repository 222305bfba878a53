"""The files of a backup, read one after the other, as if everything about them were made by an enemy.

Only plain files under names that a backup has are taken, whatever an archive says of owners, modes, links or devices.
Nothing is unpacked: each file is read from where it lies.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from memos.backup.manifest import MANIFEST, MAX_MANIFEST, FileRecord, Manifest, check_file_name, read_manifest
from memos.errors import BackupRefused, InvalidInput

CHUNK = 1 << 20
_BLOCK = 512
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW = 128 << 20
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)

Files = Iterator[tuple[str, IO[bytes]]]


class Source:
    """A backup on the disk. ``most_bytes`` is how much an archive may unpack to."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._most_bytes = most_bytes

    def verify(self) -> Manifest:
        """Read everything, and compare it with the manifest, which is returned. Raises :class:`BackupRefused`."""
        found: dict[str, FileRecord] = {}
        manifest = None
        for name, file in self._files():
            if name == MANIFEST:
                manifest = read_manifest(_all_of(file, MAX_MANIFEST))
            else:
                found[name] = _measured(file)
        if manifest is None:
            raise BackupRefused("there is no manifest: this is no backup, or one that was cut short")
        for name, record in manifest.files.items():
            if found.get(name) != record:
                what = "is missing" if name not in found else "is not what was written"
                raise BackupRefused(f"{name} {what}; nothing was restored")
        if extra := sorted(found.keys() - manifest.files.keys()):
            raise BackupRefused(f"{extra[0]} is not in the manifest; nothing was restored")
        return manifest

    def files(self, manifest: Manifest) -> Files:
        """Yield the files once more but the manifest, in the order of their names.

        Reading one to its end raises :class:`BackupRefused` if it is not what it was when it was verified.
        """
        for name, file in self._files():
            if name != MANIFEST:
                yield name, io.BufferedReader(_Checked(file, name, manifest.files), CHUNK)

    def _files(self) -> Files:
        try:
            if self._path.is_dir():
                yield from _in_folder(self._path)
                return
            with _opened(self._path) as file:
                packed = file.read(4) == _ZSTD
                file.seek(0)
                yield from _in_archive(_unpacked(file, self._most_bytes) if packed else file)
        except OSError as error:
            raise InvalidInput(f"{self._path} cannot be read: {error.strerror}") from error
        except zstandard.ZstdError as error:
            raise BackupRefused("the archive is damaged; nothing was restored") from error


# ------------------------------------------------------------ a folder


def _in_folder(root: Path) -> Files:
    names = sorted(_names(root), key=lambda name: (name == MANIFEST, name))
    for name in names:
        with _opened(root / name) as file:
            yield name, file


def _names(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        for name in folders:
            if (Path(folder) / name).is_symlink():
                raise BackupRefused(f"{name} is a link, which no backup has; nothing was restored")
        for name in files:
            yield check_file_name((Path(folder) / name).relative_to(root).as_posix())


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is really one: a pipe would block, a link could lead anywhere."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    handle = os.open(path, flags | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidInput(f"{path} is not a file")
        yield file


# ------------------------------------------------------------ an archive


def _in_archive(file: IO[bytes]) -> Files:
    before = ""
    while (entry := _entry(file)) is not None:
        name = check_file_name(entry.name)
        if not (before < name or name == MANIFEST) or before == MANIFEST:
            raise BackupRefused(f"{name} is not where it belongs in the archive; nothing was restored")
        before = name
        part = io.BufferedReader(_Part(file, entry.size), CHUNK)
        yield name, part
        while part.read(CHUNK):
            pass
        if file.read(-entry.size % _BLOCK).strip(b"\0"):
            raise _damaged()


def _entry(file: IO[bytes]) -> tarfile.TarInfo | None:
    """Return the next header, ``None`` at the end of the archive, after which nothing may come."""
    block = _exactly(file, _BLOCK)
    if not any(block):
        while rest := file.read(CHUNK):
            if rest.strip(b"\0"):
                raise _damaged()
        return None
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise _damaged() from error
    if entry.type not in _PLAIN or entry.size < 0:
        raise BackupRefused("the archive holds something else than plain files; nothing was restored")
    return entry


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    if len(data) < size:
        raise BackupRefused("the archive was cut short; nothing was restored")
    return data


class _Part(io.RawIOBase):
    """The next ``size`` bytes of a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__()
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io itself calls it with
        wanted = min(len(buffer), self._left)
        data = self._file.read(wanted)
        if wanted and not data:
            raise BackupRefused("the archive was cut short; nothing was restored")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _unpacked(file: IO[bytes], most_bytes: int) -> IO[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(file, read_across_frames=True)
    return io.BufferedReader(_Bounded(reader, most_bytes), CHUNK)


class _Bounded(io.RawIOBase):
    """What an archive unpacks to, which may not be more than there is room for."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        super().__init__()
        self._file = file
        self._left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io itself calls it with
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise BackupRefused(
                "the archive unpacks to more than the free space on the disk of the data directory; if it is yours, "
                "make room, or unpack it yourself and restore the folder"
            )
        buffer[: len(data)] = data
        return len(data)


# ------------------------------------------------------------ checksums


class _Checked(io.RawIOBase):
    """A file that must be, to its last byte, what the manifest says."""

    def __init__(self, file: IO[bytes], name: str, expected: Mapping[str, FileRecord]) -> None:
        super().__init__()
        self._file = file
        self._name = name
        self._expected = expected.get(name)
        self._digest = hashlib.sha256()
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io itself calls it with
        data = self._file.read(len(buffer))
        self._digest.update(data)
        self._bytes += len(data)
        if not data and FileRecord(bytes=self._bytes, sha256=self._digest.hexdigest()) != self._expected:
            raise BackupRefused(f"{self._name} changed while it was restored; nothing was")
        buffer[: len(data)] = data
        return len(data)


def _measured(file: IO[bytes]) -> FileRecord:
    digest, count = hashlib.sha256(), 0
    while data := file.read(CHUNK):
        digest.update(data)
        count += len(data)
    return FileRecord(bytes=count, sha256=digest.hexdigest())


def _all_of(file: IO[bytes], most: int) -> bytes:
    data = file.read(most + 1)
    if len(data) > most:
        raise BackupRefused("the manifest is longer than any; nothing was restored")
    return data


def _damaged() -> BackupRefused:
    return BackupRefused("the archive is damaged; nothing was restored")
