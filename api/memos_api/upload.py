"""Files on their way in and out: in a folder of their own that goes when the request is over."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse

from memos.errors import InvalidInput, MemosError, StoreFull
from memos_api.pools import Pool

NAME = "import"
#: What a PEFT directory may hold here, and nothing else.
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


@asynccontextmanager
async def received(request: Request, pool: Pool, name: str | None) -> AsyncIterator[Path]:
    """Yield a file with the body of a request, named as the client named it."""
    folder = Path(tempfile.mkdtemp(prefix="memos-upload-"))
    try:
        path = folder / (Path(name or NAME).name or NAME)
        try:
            with path.open("wb") as file:
                async for piece in request.stream():
                    await pool.run(lambda piece=piece: file.write(piece))  # type: ignore[misc]
        except OSError as error:
            raise StoreFull(f"no space left to take the file: {error.strerror}") from error
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def kept_if_made() -> Iterator[Path]:
    """Yield a temporary folder, which stays unless the block fails."""
    folder = Path(tempfile.mkdtemp(prefix="memos-export-"))
    with ExitStack() as on_failure:
        on_failure.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder
        on_failure.pop_all()


@contextmanager
def unnamed(folder: Path) -> Iterator[None]:
    """Keep the name of a temporary folder out of errors."""
    try:
        yield
    except MemosError as error:
        raise type(error)(error.message.replace(f"{folder}/", ""), **error.extra) from error


def file_answer(folder: Path, path: Path, media_type: str, headers: dict[str, str]) -> FileResponse:
    """Return a file of a temporary folder, which goes once it is sent."""
    gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, headers=headers, media_type=media_type, filename=path.name, background=gone)


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
