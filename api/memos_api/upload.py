"""Files on their way in and out: in folders of their own, which go before the request is over."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from memos.activation.room import abandoned, locked
from memos.errors import InvalidInput, MemosError, StoreFull
from memos_api.pools import Pool

NAME = "import"
#: A file that is locked as long as somebody is at what lies beside it.
LOCK = "lock"
#: Bytes of a file's name on common file systems.
LONGEST_NAME = 255
#: Bytes read at a time.
PIECE = 1 << 20
#: What a PEFT directory may hold here, and nothing else.
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def swept(root: Path) -> Path:
    """Return the folder for files on their way, rid of what processes left there that were killed."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(root / LOCK):
        for left in root.iterdir():
            lock = left / LOCK
            if left.is_dir() and (abandoned(lock) or not lock.exists()):
                shutil.rmtree(left, ignore_errors=True)
    return root


@asynccontextmanager
async def received(request: Request, pool: Pool, root: Path, name: str | None) -> AsyncIterator[Path]:
    """Yield a file with the body of a request, named as the client named it. Raises :class:`InvalidInput`."""
    named = Path(name or NAME).name or NAME
    if "\0" in named or len(named.encode()) > LONGEST_NAME:
        raise InvalidInput(f"name must be a file's name of at most {LONGEST_NAME} bytes, without a NUL character")
    with passing(root) as folder:
        path = folder / named
        with path.open("wb") as file:
            async for piece in request.stream():
                await pool.run(partial(_append, file, piece))
        yield path


@contextmanager
def passing(root: Path) -> Iterator[Path]:
    """Yield a folder that goes with the block, and whose name stands in no error."""
    with ExitStack() as until_the_end:
        with locked(root / LOCK):  # nobody takes it for abandoned before it has its lock
            whole = Path(until_the_end.enter_context(_temporary(root)))
            until_the_end.enter_context(locked(whole / LOCK))
        folder = whole / "files"
        folder.mkdir()
        try:
            yield folder
        except MemosError as error:
            raise type(error)(error.message.replace(f"{folder}/", ""), **error.extra) from error


def _temporary(root: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True)


class FileAnswer(StreamingResponse):
    """An answer that is a file, which may be removed once this is made: it is open already."""

    def __init__(self, path: Path, media_type: str, headers: dict[str, str]) -> None:
        self._file = path.open("rb")
        told = {
            "Content-Length": str(os.fstat(self._file.fileno()).st_size),
            "Content-Disposition": f'attachment; filename="{path.name}"',
        }
        super().__init__(iter(partial(self._file.read, PIECE), b""), 200, {**told, **headers}, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, as far as somebody reads it, and close it."""
        with self._file:
            await super().__call__(scope, receive, send)


def _append(file: BinaryIO, piece: bytes) -> None:
    try:
        file.write(piece)
    except OSError as error:
        raise StoreFull(f"no space left to take the file: {error.strerror}") from error


def zipped(folder: Path, target: Path) -> None:
    """Pack a PEFT directory, uncompressed: weights do not shrink."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in PEFT_FILES:
            archive.write(folder / name, name)


def unzip(path: Path, folder: Path, most: int) -> None:
    """Unpack a PEFT directory of two plain files. Raises :class:`InvalidInput`."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {Path(item.filename).name: item for item in archive.infolist() if not item.is_dir()}
            if sorted(found) != sorted(PEFT_FILES) or len(archive.infolist()) > len(PEFT_FILES) + 1:
                raise InvalidInput(f"the archive must hold {' and '.join(PEFT_FILES)}, and nothing else")
            if sum(item.file_size for item in found.values()) > most:
                raise InvalidInput(f"the archive unpacks to more than {most} bytes")
            for name, item in found.items():
                with archive.open(item) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InvalidInput(f"the body is no ZIP archive that can be read: {error}") from error
