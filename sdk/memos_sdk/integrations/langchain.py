"""LangChain: a retriever and a chat message history (``pip install 'agent-memos-sdk[langchain]'``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from langchain_core.retrievers import BaseRetriever

from memos_sdk import Memory
from memos_sdk.integrations._session import SessionLog
from memos_sdk.integrations._values import readable

_ROLES = {"human": "user", "ai": "assistant"}


class MemosRetriever(BaseRetriever):
    """Documents are what ``memory`` recalls for the query, best first, ``top_k`` at most.

    A document has the memory's id and text, and its metadata with ``score`` and ``event_time`` (ISO 8601) added.
    ``filters`` are those of :meth:`memos_sdk.Memory.recall`.
    """

    memory: Memory
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    top_k: int = 10
    filters: dict[str, Any] | None = None

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        result = self.memory.recall(
            query,
            user_id=self.user_id,
            agent_id=self.agent_id,
            run_id=self.run_id,
            top_k=self.top_k,
            filters=self.filters,
        )
        return [
            Document(
                id=hit.id,
                page_content=hit.text,
                metadata={**hit.metadata, "score": hit.score, "event_time": hit.event_time.isoformat()},
            )
            for hit in result.hits
        ]


class MemosChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session (a memory's ``run_id``), in order; recall finds them like other memories.

    Everything stored under this user, agent and session belongs to the history: ``clear`` deletes it.
    """

    def __init__(
        self, memory: Memory, session_id: str, *, user_id: str | None = None, agent_id: str = "langchain"
    ) -> None:
        super().__init__()
        self._log = SessionLog(memory, session_id, user_id, agent_id)

    @property
    def messages(self) -> list[BaseMessage]:
        """All messages, oldest first; read anew each time."""
        return list(messages_from_dict(self._log.items()))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages, all or none. Raises ``TypeError`` for one that JSON has no form for."""
        self._log.add(
            (message_to_dict(message), _ROLES.get(message.type, message.type), readable(message.content))
            for message in messages
        )

    def clear(self) -> None:
        """Delete all messages of the session."""
        self._log.clear()
