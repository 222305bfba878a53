"""MCP over streamable HTTP at ``/mcp``: every request stands for itself, and its API key decides whose memories."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mcp import types
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from memos.access import Permission
from memos.errors import Forbidden, MemosError
from memos.wire import Payload
from memos_api.answers import JSON, encoded
from memos_api.caller import Caller, caller, is_loopback
from memos_api.mcp.server import Context, Refused, make_server
from memos_api.mcp.tools import TOOLS
from memos_api.problems import problem
from memos_api.service import Service, service_of
from memos_api.settings import ServiceSettings

PATH = "/mcp"
PERMISSIONS = {tool.name: Permission.READ if tool.reads else Permission.WRITE for tool in TOOLS}


@asynccontextmanager
async def running(settings: ServiceSettings) -> AsyncIterator[StreamableHTTPSessionManager]:
    """Yield what answers the requests of :func:`routes`; an application keeps it as ``app.state.mcp``.

    There are no sessions that could outlive a key, and an answer is one JSON body: the tools have nothing to stream.
    """
    manager = StreamableHTTPSessionManager(
        make_server(_memories_of),
        stateless=True,
        json_response=True,
        max_request_body_size=settings.max_body_bytes,
    )
    async with manager.run():
        yield manager


def routes() -> list[Route]:
    """Return the routes of the protocol: the same with and without a slash at the end, as clients write both.

    ``GET`` (a stream from the server) and ``DELETE`` (the end of a session) are not for a server without sessions.
    """
    return [_Route(path, _Endpoint(), methods=["POST"], include_in_schema=False) for path in (PATH, f"{PATH}/")]


class _Route(Route):
    """A route that the edge can name in log lines and metrics, as it can name FastAPI's own."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, {**child, "route": self}


class _Endpoint:
    """Lets in whoever may use the service at all; what a tool needs beyond that is asked when it is called."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            request.state.caller = await _admitted(request)
        except MemosError as error:
            await _refusal(error)(scope, receive, send)
            return
        await request.app.state.mcp.handle_request(scope, receive, send)


async def _admitted(request: Request) -> Caller:
    """Return who calls. Raises :class:`Unauthenticated`, and :class:`Forbidden` for pages of other sites.

    A page can reach this machine through the browser of somebody who works here, under a name of its own (DNS
    rebinding) or not. What it cannot have is a key. So a request with a key may come from anywhere, under any name that
    the service has; one without must be of this machine by its ``Host``, as for REST, and by its ``Origin`` too.
    """
    found = await caller(request)
    origin = request.headers.get("origin")
    if found.token is None and origin is not None and not _of_this_machine(origin):
        raise Forbidden(f"pages of {origin!r} may not use this service without an API key")
    service = service_of(request)
    await service.calls.run(lambda: _check_key(service, found))
    return found


def _of_this_machine(origin: str) -> bool:
    try:
        return is_loopback(urlsplit(origin).hostname)
    except ValueError:  # no URL at all
        return False


def _check_key(service: Service, found: Caller) -> None:
    with suppress(Forbidden):  # a key for writing alone is a key
        service.access.admit(found.token, Permission.READ, local=found.local)


def _refusal(error: MemosError) -> Response:
    """Return a problem as clients of the protocol read it: a JSON-RPC error, with the status and headers of REST."""
    answer = problem(error)
    failure = types.ErrorData(code=types.INVALID_REQUEST, message=error.message, data=error.problem())
    body = types.JSONRPCError(jsonrpc="2.0", id=None, error=failure).model_dump()
    headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
    return Response(encoded(body), answer.status_code, headers, media_type=JSON)


@dataclass(frozen=True, slots=True)
class ServiceMemories:
    """The memories of a caller's tenant, reached as REST reaches them."""

    service: Service
    caller: Caller

    async def call(self, operation: str, payload: Payload) -> Any:
        """Run an operation in the service's pool, once the caller's key and rate allow it."""
        try:
            made = await self.service.run(
                self.caller, PERMISSIONS[operation], lambda wire: wire.call(operation, payload)
            )
        except MemosError as error:
            raise Refused(error.problem()) from error
        if operation == "store":
            self.service.metrics.stored.inc()
        return made


def _memories_of(context: Context) -> ServiceMemories:
    request = context.request
    assert isinstance(request, Request)  # this transport's context always has one
    return ServiceMemories(service_of(request), request.state.caller)
