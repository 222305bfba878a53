"""MCP over stdin and stdout: the server that an agent's host starts as a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp.server.stdio import stdio_server

from memos.wire import Payload
from memos_api.mcp.server import Refused, make_server
from memos_sdk import AsyncMemory
from memos_sdk.errors import MemosError


async def serve(memory: AsyncMemory, user: str | None = None) -> None:
    """Serve a memory until stdin ends, then close it. With ``user`` every call is about that user's memories.

    While it runs, whatever else writes to stdout writes to stderr.
    """
    server = make_server(lambda _: ClientMemories(memory), user)
    async with stdio_server() as (incoming, outgoing), memory:
        await server.run(incoming, outgoing, server.create_initialization_options())


@dataclass(frozen=True, slots=True)
class ClientMemories:
    """The memories of an embedded store or of a server, reached through the client."""

    memory: AsyncMemory

    async def call(self, operation: str, payload: Payload) -> Any:
        """Run the client's method of the same name."""
        try:
            made = await getattr(self.memory, operation)(**_keywords(payload))
        except MemosError as error:
            raise Refused({"code": error.code, **error.problem, "detail": error.message}) from error
        return [one.model_dump() for one in made] if isinstance(made, list) else made.model_dump()


def _keywords(payload: Payload) -> dict[str, Any]:
    """Return a payload as the arguments that the client's method takes."""
    named = {"cube_id" if name == "id" else name: value for name, value in payload.items() if name != "item"}
    return {**payload.get("item", {}), **named}
