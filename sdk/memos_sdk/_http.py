"""The HTTP transport: pooled connections, retries of what may be repeated, errors as the server says them."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from memos_sdk._requests import Request, chat_request, request_of
from memos_sdk._stream import Pieces
from memos_sdk.errors import InvalidInput, MemosError, StoreClosed, Unreachable, from_problem

#: Times a request is sent at most, seconds before the second, and the longest pause between two.
ATTEMPTS, BACKOFF_S, LONGEST_S = 4, 0.1, 10.0
#: What is worth repeating: the server, or a proxy before it, could not take the request now.
PASSING = frozenset({429, 502, 503, 504})
SLOW_S = 600.0
CONNECTIONS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


class HttpTransport:
    """Carries operations to a server."""

    def __init__(
        self, url: str, api_key: str | None, timeout: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._timeout = timeout
        self._client = httpx.Client(**_options(url, api_key, timeout), limits=CONNECTIONS, transport=transport)

    def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run one operation. Raises :class:`MemosError`."""
        request = request_of(operation, payload)
        answer = self._repeated(request)
        return self._repeated(request.then) if request.then is not None else answer

    def stream(self, payload: dict[str, Any]) -> Iterator[Any]:
        """Yield the pieces of a chat's answer, and last the reply as a mapping."""
        request = chat_request(payload, stream=True)
        pieces = Pieces()
        with _translated(self), self._client.stream(**_sent(request, request.body, SLOW_S)) as response:
            if not response.is_success:
                response.read()
            _check(response)
            for line in response.iter_lines():
                yield from pieces.of(line)
        yield pieces.reply()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _repeated(self, request: Request) -> Any:
        attempt = 0
        with _body(request) as body:
            while True:
                attempt += 1
                try:
                    return self._once(request, body)
                except MemosError as error:
                    time.sleep(_pause(error, attempt, request))

    def _once(self, request: Request, body: Any) -> Any:
        timeout = SLOW_S if request.slow else self._timeout
        with _translated(self), self._client.stream(**_sent(request, _rewound(body), timeout)) as response:
            if request.target is None or not response.is_success:
                response.read()
                return _answer(request, response)
            with _written(request.target) as file:
                for piece in response.iter_bytes():
                    file.write(piece)
            return _count(response)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._client.is_closed


class AsyncHttpTransport:
    """The same on asyncio."""

    def __init__(
        self, url: str, api_key: str | None, timeout: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._timeout = timeout
        self._client = httpx.AsyncClient(**_options(url, api_key, timeout), limits=CONNECTIONS, transport=transport)

    async def call(self, operation: str, payload: dict[str, Any]) -> Any:
        """Run one operation. Raises :class:`MemosError`."""
        request = request_of(operation, payload)
        answer = await self._repeated(request)
        return await self._repeated(request.then) if request.then is not None else answer

    async def stream(self, payload: dict[str, Any]) -> AsyncIterator[Any]:
        """Yield the pieces of a chat's answer, and last the reply as a mapping."""
        request = chat_request(payload, stream=True)
        pieces = Pieces()
        with _translated(self):
            async with self._client.stream(**_sent(request, request.body, SLOW_S)) as response:
                if not response.is_success:
                    await response.aread()
                _check(response)
                async for line in response.aiter_lines():
                    for piece in pieces.of(line):
                        yield piece
        yield pieces.reply()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _repeated(self, request: Request) -> Any:
        attempt = 0
        with _body(request) as body:
            while True:
                attempt += 1
                try:
                    return await self._once(request, body)
                except MemosError as error:
                    await asyncio.sleep(_pause(error, attempt, request))

    async def _once(self, request: Request, body: Any) -> Any:
        timeout = SLOW_S if request.slow else self._timeout
        content = _rewound(body)
        if hasattr(content, "read"):
            content = _read_through(content)
        with _translated(self):
            async with self._client.stream(**_sent(request, content, timeout)) as response:
                if request.target is None or not response.is_success:
                    await response.aread()
                    return _answer(request, response)
                with _written(request.target) as file:
                    async for piece in response.aiter_bytes():
                        file.write(piece)
                return _count(response)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._client.is_closed


# ------------------------------------------------------------ requests


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInput(f"{url!r} is no URL of a server") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host:
        raise InvalidInput(f"{url!r} is no URL of a server: it looks like http://host:8000")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise InvalidInput("api_key must be the text of a key, memos_...")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": url.rstrip("/"), "timeout": timeout, "headers": headers, "follow_redirects": False}


def _sent(request: Request, content: Any, timeout: float) -> dict[str, Any]:
    kind = "application/octet-stream" if request.file is not None else "application/json"
    headers = {**request.headers, **({"Content-Type": kind} if content is not None else {})}
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query,
        "content": content,
        "headers": headers,
        "timeout": timeout,
    }


@contextmanager
def _body(request: Request) -> Iterator[Any]:
    """Yield what is sent: bytes, or an open file; a folder goes as a ZIP archive."""
    if request.file is None:
        yield request.body
        return
    path = Path(request.file)
    try:
        if path.is_dir() and request.path.startswith("/v1/adapters"):
            with tempfile.TemporaryFile() as archive:
                _zip(path, archive)
                yield archive
            return
        if path.is_dir():
            raise InvalidInput(f"{path} is a folder; import its files one by one")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _zip(folder: Path, archive: Any) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:
        for name in PEFT_FILES:
            if (folder / name).exists():
                made.write(folder / name, name)


def _rewound(body: Any) -> Any:
    if hasattr(body, "seek"):
        body.seek(0)
    return body


async def _read_through(file: Any) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, 1 << 20):
        yield piece


# ------------------------------------------------------------ answers


@contextmanager
def _translated(transport: HttpTransport | AsyncHttpTransport) -> Iterator[None]:
    """Turn what httpx raises into this package's errors."""
    if transport.closed:
        raise StoreClosed("this memory was closed; open it again", {"status": 409, "code": "store-closed"})
    try:
        yield
    except httpx.TimeoutException as error:
        raise Unreachable(f"the server did not answer in time ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise Unreachable(f"the server cannot be reached: {error!r}") from error


def _answer(request: Request, response: httpx.Response) -> Any:
    _check(response)
    try:
        return request.read(response.json())
    except (ValueError, LookupError, TypeError) as error:
        raise Unreachable(f"{response.url.host} answered with something else than a memory service would") from error


def _check(response: httpx.Response) -> None:
    """Raise the error that an answer is."""
    if response.is_success:
        return
    problem = _problem(response)
    if "retry-after" in response.headers:
        problem.setdefault("retry_after", response.headers["retry-after"])
    raise from_problem(problem)


def _problem(response: httpx.Response) -> dict[str, Any]:
    """Return the problem body of an answer; one that something else than the service gave is made up."""
    try:
        given = response.json()
    except ValueError:
        given = None
    if isinstance(given, Mapping) and "code" in given:
        return dict(given)
    passing = response.status_code in PASSING
    detail = f"the server answered {response.status_code} {response.reason_phrase}".strip()
    return {"status": response.status_code, "detail": detail, "code": "unreachable" if passing else "internal-error"}


def _pause(error: MemosError, attempt: int, request: Request) -> float:
    """Return the seconds until a request is repeated; raise ``error`` where it must not or need not be."""
    passing = isinstance(error, Unreachable) or error.status in PASSING
    safe = request.method == "GET" or "Idempotency-Key" in request.headers or request.path == "/v1/recall"
    unbegun = error.code in ("overloaded", "limit-reached")
    if attempt >= ATTEMPTS or not passing or not (safe or unbegun):
        raise error
    asked = str(error.problem.get("retry_after", ""))
    least = float(asked) if asked.replace(".", "", 1).isdigit() else 0.0
    if least > LONGEST_S:
        raise error
    return max(least, min(LONGEST_S, BACKOFF_S * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0))


# ------------------------------------------------------------ files


@contextmanager
def _written(target: str) -> Iterator[Any]:
    """Open a file beside a target, which it replaces once the whole answer is in it."""
    path = Path(target)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".memos-")
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        if path.suffix != ".zip" and zipfile.is_zipfile(name):
            _unzip(name, path)
        else:
            Path(name).replace(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _unzip(archive: str, folder: Path) -> None:
    """Unpack a PEFT directory into a new or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there already; name a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as made:
        for name in PEFT_FILES:
            (folder / name).write_bytes(made.read(name))


def _count(response: httpx.Response) -> int:
    """Return how many memories a file holds, as its headers say."""
    return int(response.headers.get("memos-count", 0))
