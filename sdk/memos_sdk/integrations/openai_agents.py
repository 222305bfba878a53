"""OpenAI Agents SDK: a ``Session`` (``pip install 'agent-memos-sdk[openai-agents]'``)."""

from __future__ import annotations

import asyncio

from agents import SessionSettings, TResponseInputItem

from memos_sdk import Memory
from memos_sdk.integrations._session import SessionLog
from memos_sdk.integrations._values import readable


class MemosSession:
    """The items of one conversation (a memory's ``run_id``), in order and unchanged; recall finds what was said.

    Everything stored under this user, agent and session belongs to it: ``clear_session`` deletes it. A call that is
    cancelled may still be carried out.
    """

    def __init__(
        self,
        memory: Memory,
        session_id: str,
        *,
        user_id: str | None = None,
        agent_id: str = "openai-agents",
        session_settings: SessionSettings | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings
        self._log = SessionLog(memory, session_id, user_id, agent_id)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the latest ``limit`` items, oldest first; by default as many as ``session_settings`` says, or all."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        return await asyncio.to_thread(self._log.items, limit)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items, all or none."""
        said = [(item, item.get("role"), readable(item.get("content"))) for item in items]
        await asyncio.to_thread(self._log.add, said)

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the latest item and return it, ``None`` when there is none."""
        return await asyncio.to_thread(self._log.pop)

    async def clear_session(self) -> None:
        """Delete all items of the session."""
        await asyncio.to_thread(self._log.clear)
