"""One use of memories, as far as predictions learn from it."""

from __future__ import annotations

from dataclasses import dataclass

from memos.cube import Scope

#: Memories of one use that are looked at, best first; so many fit into a chat.
MOST = 16

#: What belongs together in time: uses by one agent in one run.
Stream = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Use:
    """The memories that a recall or chat found, best first, when (microseconds) and in which stream.

    ``links`` are the memories they are linked to, with the strength of each link.
    """

    at: int
    stream: Stream
    ids: tuple[str, ...]
    links: tuple[tuple[str, float], ...] = ()


def stream_of(scope: Scope) -> Stream:
    """Return the stream of what a scope asks."""
    return scope.agent_id, scope.run_id
