"""Writes that are carried out once, however often they are asked for.

A request's key is recorded in the transaction that carries it out, with what its answer can be made from again: ids and
counts, never content. So a crash leaves either both or neither, and a repetition is answered without doing anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from memos.clock import HOUR_US, now_us
from memos.cube import check_name
from memos.store.moves import record_move
from memos.store.records import Idempotency, request_digest
from memos.store.scoped import answer_of

_CURRENT: ContextVar[Once | None] = ContextVar("memos_once", default=None)

Answer = Mapping[str, Any]


class AlreadyDone(Exception):
    """The request was carried out meanwhile: raised in a transaction, which ends without effect."""


@dataclass(slots=True)
class Once:
    """A request with a key. ``expected`` is the answer of a write that does not know its own."""

    tenant: str
    key: str
    digest: str
    expires_at: int
    expected: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tenant: str, key: str, request: Any, hours: int) -> Once:
        """Return the request that a key is used for. Raises :class:`memos.errors.InvalidInput`."""
        check_name(key, "idempotency_key")
        return cls(tenant, key, request_digest(key, request), now_us() + hours * HOUR_US)

    def answer(self, connection: Connection) -> dict[str, Any] | None:
        """Return what the request was answered with, ``None`` if it was not carried out."""
        return answer_of(connection, self.tenant, self.key, self.digest)


@contextmanager
def once(request: Once) -> Iterator[None]:
    """Let the writes of the block, in this thread, record the request."""
    token = _CURRENT.set(request)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def expect(answer: Answer) -> None:
    """Say what the request comes to, before the transaction that carries it out."""
    if (request := _CURRENT.get()) is not None:
        request.expected = dict(answer)


def record(connection: Connection, namespace_id: int, **answer: Any) -> None:
    """Record the request that is being carried out, if it has a key, and the move it is part of, in its transaction.

    Raises :class:`memos.errors.IdempotencyConflict` where the key was used for another request of the namespace, and
    :class:`AlreadyDone` where another thread was faster.
    """
    record_move(connection, namespace_id, answer.get("job_id"))
    request = _CURRENT.get()
    if request is None:
        return
    keys = Idempotency(connection, namespace_id)
    if keys.replay(request.key, request.digest) is not None:
        raise AlreadyDone
    keys.remember(request.key, request.digest, request.expires_at, answer=answer or request.expected)
