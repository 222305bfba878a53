"""The protocol server: lists the tools and calls them, wherever the memories are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mcp import types
from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic_core import from_json

from memos import __version__
from memos.errors import InvalidInput
from memos.wire import Payload
from memos_api.answers import encoded
from memos_api.mcp.tools import INSTRUCTIONS, TOOLS, Tool
from memos_api.mcp.views import View

Context = ServerRequestContext[Any, Any]
#: Fields of a problem body that say nothing to a model that the code and the message do not.
_FOR_HTTP = frozenset({"type", "title", "status", "detail", "code"})


class Refused(Exception):
    """A call that failed. ``problem`` is the RFC 9457 body that REST answers with."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


class Memories(Protocol):
    """The memories of one caller: the seam between the tools and a transport."""

    async def call(self, operation: str, payload: Payload) -> Any:
        """Run an operation of :mod:`memos.wire` and return plain data. Raises :class:`Refused`."""
        ...


def make_server(memories_of: Callable[[Context], Memories], user: str | None = None) -> Server[Any]:
    """Return a server of the tools.

    ``memories_of`` finds the memories of whoever makes a request. With ``user`` every call is about that user's, and no
    tool takes a ``user_id``.
    """
    tools = {tool.name: tool for tool in TOOLS}
    described = {name: tool.described(for_one_user=user is not None) for name, tool in tools.items()}

    async def on_list(_: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=list(described.values()))

    async def on_call(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        if (tool := tools.get(params.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        try:
            payload = _payload(tool, params.arguments or {}, user)
            made = await memories_of(context).call(tool.name, payload)
        except Refused as refused:
            return _failed(refused.problem)
        return _answered(tool.answer.of(made, payload))

    return Server(
        "agent-memos",
        title="agent-memos",
        version=__version__,
        description="Memory for LLM agents.",
        instructions=INSTRUCTIONS,
        on_list_tools=on_list,
        on_call_tool=on_call,
        get_tool_input_schema=lambda name: described[name].input_schema if name in described else None,
    )


def _payload(tool: Tool, given: Mapping[str, Any], user: str | None) -> Payload:
    try:
        if user is not None:
            if given.get("user_id") is not None:
                raise InvalidInput("unknown argument 'user_id': this server is for one user alone")
            given = {**given, "user_id": user}
        return tool.arguments.read(given).payload()
    except InvalidInput as error:
        raise Refused(error.problem()) from error


def _answered(view: View) -> types.CallToolResult:
    """Return an answer twice: as structured content, and as the same JSON in a text for clients that know no other."""
    text = encoded(view.model_dump(exclude_defaults=True))
    return types.CallToolResult(content=[_text(text)], structured_content=from_json(text))


def _failed(problem: Mapping[str, Any]) -> types.CallToolResult:
    """Return what went wrong, for the model to read.

    As a text alone: there are clients that hold structured content against the tool's output schema even for errors.
    """
    more = {name: value for name, value in problem.items() if name not in _FOR_HTTP}
    told = {"code": problem["code"], "message": problem["detail"], **more}
    return types.CallToolResult(content=[_text(encoded(told))], is_error=True)


def _text(json: bytes) -> types.TextContent:
    return types.TextContent(type="text", text=json.decode())
