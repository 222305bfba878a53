"""Which models may be served composed prompts: what was measured of each, by its fingerprint."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from memos.store.schema import compositions


@dataclass(frozen=True, slots=True)
class Composition:
    """A model's check: divergence in nats per token, agreement of likeliest tokens, why it was refused if it was.

    ``drift`` is what :class:`memos.activation.compose.drift.Drift` makes of it; ``name`` is for people.
    """

    fingerprint: str
    name: str
    divergence: float | None
    agreement: float | None
    refusal: str | None
    drift: bytes | None
    created_at: int


def get(connection: Connection, fingerprint: str) -> Composition | None:
    """Return what was measured of a model."""
    statement = select(compositions).where(compositions.c.fingerprint == fingerprint)
    row = connection.execute(statement).mappings().first()
    return None if row is None else Composition(**row)


def put(connection: Connection, composition: Composition) -> None:
    """Write what was measured of a model, unless something is on record."""
    try:
        with connection.begin_nested():
            connection.execute(insert(compositions).values(**asdict(composition)))
    except IntegrityError:
        return  # another process measured the same model at the same time


def every(connection: Connection) -> list[Composition]:
    """Return all of them, oldest first."""
    rows = connection.execute(select(compositions).order_by(compositions.c.created_at)).mappings()
    return [Composition(**row) for row in rows]
