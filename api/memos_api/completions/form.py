"""Answers in OpenAI's form: a completion, or chunks of one as server-sent events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memos.ids import new_id
from memos.llm.messages import ChatReply
from memos_api.answers import encoded
from memos_api.completions.request import Turn

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Form:
    """What all parts of one answer have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{new_id()}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, reply: ChatReply, turn: Turn) -> dict[str, Any]:
        """Return a whole answer of the local model."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.text},
            "finish_reason": reply.finish_reason,
            "logprobs": None,
        }
        return {
            **self._head("chat.completion"),
            "model": reply.model,
            "choices": [choice],
            "usage": usage(reply),
            "memos": served(reply, turn),
        }

    def piece(self, text: str, *, first: bool) -> bytes:
        """Return a chunk of text."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._event([{"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}])

    def end(self, reply: ChatReply, turn: Turn) -> bytes:
        """Return the last chunk of text, which says how it ended and what memory did."""
        choice = {"index": 0, "delta": {}, "finish_reason": reply.finish_reason, "logprobs": None}
        return self._event([choice], memos=served(reply, turn))

    def usage(self, reply: ChatReply) -> bytes:
        """Return the chunk that counts tokens."""
        return self._event([], usage=usage(reply))

    def _event(self, choices: list[Any], **more: Any) -> bytes:
        return event({**self._head("chat.completion.chunk"), "choices": choices, **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def event(data: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + encoded(data) + b"\n\n"


def usage(reply: ChatReply) -> dict[str, Any]:
    """Return OpenAI's counts of tokens, and ours beside them."""
    counts = reply.usage.model_dump()
    cached = reply.usage.tokens_reused + reply.usage.tokens_shared
    return {**counts, "prompt_tokens_details": {"cached_tokens": cached}}


def served(reply: ChatReply, turn: Turn) -> dict[str, Any]:
    """Return what memory had to do with an answer."""
    misses = [miss.model_dump() for miss in reply.misses]
    return {"tiers": reply.tiers, "misses": misses, "stored": turn.stored, "problem": turn.problem}
