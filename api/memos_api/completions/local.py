"""Chats answered by the local model, whole or piece by piece, and given up when nobody listens any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from memos.access import Permission
from memos.errors import MemosError
from memos.llm.messages import ChatReply
from memos.wire import Wire
from memos_api.caller import Caller
from memos_api.completions.form import DONE, Form, event
from memos_api.completions.keeping import keep
from memos_api.completions.request import ChatBody, Turn, plain_messages, question_of
from memos_api.service import Service


class NobodyListens(Exception):
    """The client went away: raised where the model hands over text, to end the generation."""


@dataclass(frozen=True, slots=True)
class Answering:
    """One chat under way. ``pieces`` ends with None."""

    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    gone: threading.Event = field(default_factory=threading.Event)

    def take(self, text: str) -> None:
        """Hand over a piece; called by the thread of the chat."""
        if self.gone.is_set():
            raise NobodyListens
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, text)

    def end(self) -> None:
        """Say that no piece follows."""
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, None)


Replying = asyncio.Task[tuple[ChatReply, Turn]]


async def begin(service: Service, caller: Caller, body: ChatBody) -> tuple[Answering, Replying]:
    """Start a chat; return where its pieces come, and the task that ends with the reply."""
    answering = Answering(asyncio.get_running_loop())
    turn = Turn(question_of(body))
    messages = plain_messages(body)
    options = _options(body)

    def work(wire: Wire) -> tuple[ChatReply, Turn]:
        try:
            reply = wire.chat({"messages": messages, **body.whose, "options": options}, answering.take)
            service.metrics.chat(reply)
            turn.answer = reply.text
            if body.keeps:
                keep(wire, turn, body.whose)
            return reply, turn
        finally:
            answering.end()

    permission = Permission.WRITE if body.keeps else Permission.READ
    task = asyncio.create_task(service.run(caller, permission, work, service.chats))
    task.add_done_callback(lambda _: _over(answering, task))
    return answering, task


async def stream(first: str | None, answering: Answering, task: Replying, body: ChatBody) -> AsyncIterator[bytes]:
    """Yield the answer as server-sent events, beginning with a piece that is there already."""
    form, piece, opening = Form(body.model), first, True
    try:
        while piece is not None:
            yield form.piece(piece, first=opening)
            opening, piece = False, await answering.pieces.get()
        try:
            reply, turn = await task
        except MemosError as error:
            yield event({"error": {**error.problem(), "message": error.message}})
            return
        if opening:
            yield form.piece("", first=True)
        yield form.end(reply, turn)
        if body.include_usage:
            yield form.usage(reply)
        yield DONE
    finally:
        answering.gone.set()


def _over(answering: Answering, task: Replying) -> None:
    """End the pieces of a chat that was refused before it began, and read what it raised where nobody else will."""
    answering.pieces.put_nowait(None)
    if not task.cancelled():
        task.exception()


def _options(body: ChatBody) -> dict[str, object]:
    """Return the options of a chat, as the engine takes them; what was not given has the engine's default."""
    given = {
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
        "stop": body.stop,
        "adapters": body.memos.adapters,
        "compose": body.memos.compose,
        "retrieval": body.memos.retrieval,
        "ratio": body.memos.ratio,
    }
    known = {name: value for name, value in given.items() if value is not None}
    return {**known, "top_k": body.memos.top_k, "reuse": body.memos.reuse, "text": body.memos.text}
