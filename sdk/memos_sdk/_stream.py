"""Chats piece by piece: server-sent events to text, and a stream that ends with the reply."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from memos_sdk.errors import Unreachable, from_problem
from memos_sdk.types import ChatReply


class Pieces:
    """Reads the events of a chat completion."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._finish: str | None = None
        self._model = ""
        self._usage: dict[str, Any] | None = None
        self._memory: dict[str, Any] = {}

    def of(self, line: str) -> Iterator[str]:
        """Yield the text that a line brings. Raises the error that it may be."""
        if not line.startswith("data:") or line == "data: [DONE]":
            return
        event = json.loads(line.removeprefix("data:"))
        if "error" in event:
            raise from_problem(event["error"])
        self._model = event.get("model") or self._model
        self._usage = event.get("usage") or self._usage
        self._memory = event.get("memos") or self._memory
        for choice in event.get("choices", ()):
            self._finish = choice.get("finish_reason") or self._finish
            text = choice.get("delta", {}).get("content")
            if text:
                self._text.append(text)
                yield text

    def reply(self) -> dict[str, Any]:
        """Return the reply that the events came to."""
        if self._finish is None or self._usage is None:
            raise Unreachable("the answer broke off in the middle")
        return {
            "text": "".join(self._text),
            "finish_reason": self._finish,
            "model": self._model,
            "usage": self._usage,
            "tiers": self._memory.get("tiers", {}),
            "misses": self._memory.get("misses", ()),
        }


class ChatStream:
    """The pieces of an answer as they come; ``reply`` is there once they have ended."""

    def __init__(self, parts: Iterator[Any]) -> None:
        self._parts = parts
        self._reply: ChatReply | None = None

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            if isinstance(part, str):
                yield part
            else:
                self._reply = ChatReply.model_validate(part)

    @property
    def reply(self) -> ChatReply:
        """The whole reply; reads what has not come yet."""
        for _ in self:
            pass
        assert self._reply is not None  # the transport ends with it, or raises
        return self._reply


class AsyncChatStream:
    """As :class:`ChatStream`, for asyncio."""

    def __init__(self, parts: AsyncIterator[Any]) -> None:
        self._parts = parts
        self._reply: ChatReply | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        async for part in self._parts:
            if isinstance(part, str):
                yield part
            else:
                self._reply = ChatReply.model_validate(part)

    async def reply(self) -> ChatReply:
        """Return the whole reply; reads what has not come yet."""
        async for _ in self:
            pass
        assert self._reply is not None  # the transport ends with it, or raises
        return self._reply
