"""LlamaIndex: a memory, and a block for its own ``Memory`` (``pip install 'agent-memos-sdk[llamaindex]'``)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.bridge.pydantic import ConfigDict, Field
from llama_index.core.memory import BaseMemory, BaseMemoryBlock

from memos_sdk import Memory
from memos_sdk.integrations._session import SessionLog
from memos_sdk.integrations._values import readable

_SPOKEN = (MessageRole.USER, MessageRole.ASSISTANT)


class MemosMemory(BaseMemory):
    """The messages of one session, kept in ``memory`` in order, and what other sessions of the user bring to mind.

    ``get`` puts the ``top_k`` memories that its input, or the latest message of the user, recalls before the messages,
    as a system message; of the session itself none, since its messages follow. ``max_tokens`` bounds that text, as the
    embedder counts. All messages are returned; for a budget of tokens use LlamaIndex's ``Memory`` with a
    :class:`MemosMemoryBlock`. Everything stored under this user, agent and session belongs to it: ``reset``
    deletes it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: Memory = Field(exclude=True)
    session_id: str
    user_id: str | None = None
    agent_id: str = "llamaindex"
    top_k: int = 5
    max_tokens: int | None = None
    heading: str = "What is remembered from elsewhere:"

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes this class under."""
        return "MemosMemory"

    @classmethod
    def from_defaults(cls, **kwargs: Any) -> MemosMemory:
        """Return a memory with these fields."""
        return cls(**kwargs)

    def get(self, input: str | ChatMessage | None = None, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        """Return the messages of the session, and before them what is recalled from elsewhere."""
        said = self.get_all()
        question = input.content if isinstance(input, ChatMessage) else input
        return [*self._recalled(question or _asked(said)), *said]

    def get_all(self) -> list[ChatMessage]:
        """Return the messages of the session, oldest first."""
        return [ChatMessage.model_validate(item) for item in self._log.items()]

    def put(self, message: ChatMessage) -> None:
        """Add a message."""
        self.put_messages([message])

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages, all or none."""
        self._log.add((message.model_dump(mode="json"), message.role.value, message.content) for message in messages)

    def set(self, messages: list[ChatMessage]) -> None:
        """Replace the messages of the session, in two steps: who reads in between finds none."""
        self.reset()
        self.put_messages(messages)

    def reset(self) -> None:
        """Delete the messages of the session."""
        self._log.clear()

    @property
    def _log(self) -> SessionLog:
        return SessionLog(self.memory, self.session_id, self.user_id, self.agent_id)

    def _recalled(self, question: str | None) -> list[ChatMessage]:
        if not question or not question.strip():
            return []
        context = self.memory.recall(
            question,
            user_id=self.user_id,
            top_k=self.top_k,
            filters={"run_id": {"$ne": self.session_id}},
            max_tokens=self.max_tokens,
        ).context
        return [ChatMessage(role=MessageRole.SYSTEM, content=f"{self.heading}\n{context}")] if context else []


class MemosMemoryBlock(BaseMemoryBlock[str]):
    """Long-term memory of LlamaIndex's ``Memory``: recalls for the latest message of the user, ``top_k`` memories.

    What the short-term memory gives up is stored, one memory per message that was spoken, its session as the
    ``run_id``; so are messages put here directly. ``max_tokens`` bounds the text, as the embedder counts.
    """

    name: str = "memos"
    memory: Memory = Field(exclude=True)
    user_id: str | None = None
    agent_id: str | None = None
    top_k: int = 5
    max_tokens: int | None = None

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        question = _asked(messages or [])
        if not question:
            return ""
        result = await asyncio.to_thread(
            self.memory.recall,
            question,
            user_id=self.user_id,
            agent_id=self.agent_id,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
        )
        return result.context

    async def _aput(self, messages: list[ChatMessage]) -> None:
        spoken = [_memory(message) for message in messages if message.role in _SPOKEN and _words(message)]
        if spoken:
            await asyncio.to_thread(self.memory.store_many, spoken, user_id=self.user_id, agent_id=self.agent_id)


def _asked(messages: Sequence[ChatMessage]) -> str | None:
    """Return the latest message of the user that has words."""
    return next((text for each in reversed(messages) if each.role == MessageRole.USER and (text := _words(each))), None)


def _words(message: ChatMessage) -> str | None:
    return readable(message.content)


def _memory(message: ChatMessage) -> dict[str, Any]:
    session = message.additional_kwargs.get("session_id")  # where LlamaIndex's Memory notes it
    return {
        "text": message.content,
        "metadata": {"role": message.role.value},
        **({"run_id": session} if session else {}),
    }
