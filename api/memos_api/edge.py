"""The outermost layer, plain ASGI: what every request passes, whatever answers it.

request id -> body limit and stalled clients -> the application -> log line and metrics
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memos.errors import MemosError, RequestRefused, TooLarge
from memos.ids import new_id
from memos_api.metrics import Metrics
from memos_api.problems import problem
from memos_api.settings import ServiceSettings

logger = structlog.stdlib.get_logger("memos_api.access")

REQUEST_ID = "X-Request-ID"
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
#: Routes whose bodies are files.
FILES = frozenset({"/v1/import", "/v1/adapters/import"})
#: Status of a request whose client went away before an answer, as proxies log it.
GONE = 499


class ClientGone(Exception):
    """The client went away, or stopped reading, in the middle of an answer."""


@dataclass(slots=True)
class _Exchange:
    """One request and what became of it."""

    scope: Scope
    receive: Receive
    send: Send
    most: int
    stall_s: float
    request_id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    read: int = 0
    whole: bool = False

    async def next(self) -> Message:
        """Receive, within the limits. Raises :class:`TooLarge` and :class:`RequestRefused`."""
        if self.status or self.whole:  # all that can come is the client's leaving
            return await self.receive()
        try:
            async with asyncio.timeout(self.stall_s):
                message = await self.receive()
        except TimeoutError as error:
            raise RequestRefused(f"nothing of the body came for {self.stall_s:g} s") from error
        self.whole = not message.get("more_body", False)
        self.read += len(message.get("body", b""))
        if self.read > self.most:
            raise TooLarge(f"the body is larger than {self.most} bytes")
        return message

    async def answer(self, message: Message) -> None:
        """Send, as long as the client reads. Raises :class:`ClientGone`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), self.request_id.encode())]
        try:
            async with asyncio.timeout(self.stall_s):
                await self.send(message)
        except TimeoutError as error:
            raise ClientGone from error


class Edge:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        settings = self._settings
        most = settings.max_file_bytes if scope["path"] in FILES else settings.max_body_bytes
        exchange = _Exchange(scope, receive, send, most, settings.stall_s, _request_id(headers))
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        with self._metrics.in_flight.track_inprogress():
            try:
                _check_length(headers, most)
                await self._app(scope, exchange.next, exchange.answer)
            except MemosError as error:  # met outside the application's own handlers: while its body was read
                if not exchange.status:
                    await problem(error)(scope, receive, exchange.answer)
            except (ClientGone, ClientDisconnect, OSError):
                exchange.status = GONE
            finally:
                self._close(exchange)

    def _close(self, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        method, route, status = exchange.scope["method"], route_of(exchange.scope), exchange.status or GONE
        self._metrics.served(method, route, status, seconds)
        logger.info("request", method=method, route=route, status=status, ms=round(seconds * 1e3, 2))
        structlog.contextvars.clear_contextvars()


def route_of(scope: Scope) -> str:
    """Return the template of the path that a request met, such as ``/v1/memories/{cube_id}``, or ``unknown``.

    A route of an included router knows its own part alone. What the request's path has before that part is the prefix
    of the router: one of a few, whatever a client asks for.
    """
    own: str | None = getattr(scope.get("route"), "path_format", None)
    if own is None:
        return "unknown"
    prefix: str = scope["path"].rpartition(own.format(**scope.get("path_params", {})))[0]
    return prefix + own


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the id that a proxy or client gave, if it can stand in a log, or a new one."""
    given = headers.get(REQUEST_ID.lower().encode(), b"").decode("latin-1")
    return given if _ID.fullmatch(given) else new_id()


def _check_length(headers: dict[bytes, bytes], most: int) -> None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise RequestRefused("Content-Length is no number")
    if int(length[:20]) > most:
        raise TooLarge(f"the body has {length.decode()} bytes; the limit is {most}")
