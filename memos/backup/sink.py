"""Where the files of a backup go: a folder, or an archive, one file after the other."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import zstandard

from memos.activation.keys import sync_folder
from memos.backup.manifest import FileRecord
from memos.backup.place import taking_place_of

CHUNK = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Measured:
    """A file that is written, its bytes counted and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        """Write some bytes."""
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    @property
    def record(self) -> FileRecord:
        """What was written so far."""
        return FileRecord(bytes=self._bytes, sha256=self._digest.hexdigest())


class Sink(ABC):
    """Takes the files of a backup in the order of their names."""

    def __init__(self) -> None:
        self.files: dict[str, FileRecord] = {}

    @contextmanager
    def create(self, name: str) -> Iterator[Measured]:
        """Add the file that the block writes; nothing of it if the block fails."""
        with self._created(name) as file:
            measured = Measured(file)
            yield measured
        self.files[name] = measured.record

    @abstractmethod
    def _created(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file that is added when the block has ended well."""


class FolderSink(Sink):
    """A folder. Every file is on the disk when it is added."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @contextmanager
    def _created(self, name: str) -> Iterator[IO[bytes]]:
        path = self._folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def finish(self) -> None:
        """Make the names durable too."""
        for folder, _, _ in os.walk(self._folder):
            sync_folder(Path(folder))


class TarSink(Sink):
    """A tar archive, written to a stream. A file waits in a nameless one until its size is known."""

    def __init__(self, out: IO[bytes], waiting: Path) -> None:
        super().__init__()
        self._out = out
        self._waiting = waiting

    @contextmanager
    def _created(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryFile(dir=self._waiting) as file:
            yield file
            size = file.tell()
            file.seek(0)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = size, 0o600
            self._out.write(entry.tobuf(tarfile.GNU_FORMAT))
            while data := file.read(CHUNK):
                self._out.write(data)
            self._out.write(bytes(-size % _BLOCK))

    def finish(self) -> None:
        """Write what ends an archive."""
        self._out.write(_END)


@contextmanager
def packing(target: Path) -> Iterator[Sink]:
    """Yield where to write the backup that becomes ``target`` once the block has ended well.

    A name that ends in ``.tar`` or ``.tar.zst`` is that of an archive, any other that of a new folder. Raises
    :class:`InvalidInput` and :class:`StoreFull`.
    """
    archive = target.name.endswith((".tar", ".tar.zst"))
    with taking_place_of(target, folder=not archive) as part:
        if not archive:
            folder = FolderSink(part)
            yield folder
            folder.finish()
            return
        with part.open("r+b") as file, _compressed(file, target) as out:
            tar = TarSink(out, part.parent)
            yield tar
            tar.finish()


@contextmanager
def _compressed(file: IO[bytes], target: Path) -> Iterator[IO[bytes]]:
    if not target.name.endswith(".zst"):
        yield file
        return
    with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as out:
        yield out
