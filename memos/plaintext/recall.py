"""Recall, top to bottom: understand, find, rank, follow links, collapse duplicates, fit the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import Row

from memos.clock import from_us, to_us
from memos.cube import Frozen, Link
from memos.plaintext.collapse import Collapsed, collapse
from memos.plaintext.filters import Condition
from memos.plaintext.graph import Followed
from memos.plaintext.ranking import Ranking
from memos.store.view import NEVER, NamespaceView

#: Ranked memories fetched beyond ``top_k`` so that collapsed duplicates leave no gap.
SPARE = 16

Content = Mapping[tuple[str, int], Row[Any]]


class RecallRequest(Frozen):
    """A question with its limits. ``reference`` is the time "yesterday" counts from."""

    query: str
    top_k: int = 10
    as_of: datetime | None = None
    reference: datetime
    max_tokens: int | None = None
    explain: bool = False


class Hit(Frozen):
    """One recalled memory.

    ``why``, under ``explain``, holds the ``parts`` of the score, collapsed ``duplicates``, the ``path`` of links that
    raised it, ``valid_to`` where it no longer holds, and the ids of what it was ``fused`` from.
    """

    id: str
    text: str
    score: float
    version: int
    metadata: dict[str, Any]
    links: tuple[Link, ...] = ()
    agent_id: str | None = None
    run_id: str | None = None
    event_time: datetime
    why: dict[str, Any] | None = None


class RecallResult(Frozen):
    """Hits best first, a text block for a prompt, and the milliseconds each stage took (shown under ``explain``)."""

    hits: tuple[Hit, ...]
    context: str
    timings: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """A ranked memory with its content, on its way to becoming a hit."""

    row: int
    key: tuple[str, int]
    score: float
    parts: dict[str, float]
    content: Row[Any]


def visible(view: NamespaceView, request: RecallRequest, condition: Condition | None, now: int) -> NDArray[np.bool_]:
    """Return which rows recall may return, bool ``[rows]``.

    Without ``as_of``: newest versions that have not expired. With it: the versions that held at that time, of what was
    fused since those of its sources.
    """
    if request.as_of is None:
        allowed = view.derived("recallable", lambda: view.current & view.recallable)
        if now >= view.derived("first_expiry", lambda: int(np.min(view.expires_at, initial=NEVER))):
            allowed = allowed & (view.expires_at > now)
    else:
        at = to_us(request.as_of)
        shown = view.recallable | (at < view.fused_at)
        allowed = shown & (view.valid_from <= at) & (at < view.valid_to) & (view.expires_at > at)
    return allowed if condition is None else allowed & condition.mask(view.columns)


def found(view: NamespaceView, ranking: Ranking, content: Content) -> list[Found]:
    """Join ranked rows with their content; a row whose content is gone is dropped."""
    result = []
    for index, row in enumerate(ranking.rows.tolist()):
        key = (view.cube_ids[row], view.versions[row])
        if key in content:
            parts = {name: float(part[index]) for name, part in ranking.parts.items()}
            result.append(Found(row, key, float(ranking.scores[index]), parts, content[key]))
    return result


def head(ranking: Ranking, count: int) -> Ranking:
    """Return the ``count`` best of a ranking."""
    parts = {name: part[:count] for name, part in ranking.parts.items()}
    return replace(ranking, rows=ranking.rows[:count], scores=ranking.scores[:count], parts=parts)


def hits(view: NamespaceView, memories: Sequence[Found], followed: Followed, request: RecallRequest) -> tuple[Hit, ...]:
    """Collapse near-duplicates and build the hits."""
    kept = collapse([(memory.content.text, view.vectors[memory.row]) for memory in memories], request.top_k)
    return tuple(_hit(view, memories, followed, group, explain=request.explain) for group in kept)


def _hit(
    view: NamespaceView,
    memories: Sequence[Found],
    followed: Followed,
    group: Collapsed,
    *,
    explain: bool,
) -> Hit:
    memory = memories[group.kept]
    cube_id, version = memory.key
    why: dict[str, Any] | None = None
    if explain:
        why = {
            "parts": memory.parts,
            "duplicates": [memories[other].key[0] for other in group.duplicates],
            "path": _path(followed.via, cube_id),
        }
        if view.valid_to[memory.row] != NEVER:
            why["valid_to"] = from_us(int(view.valid_to[memory.row])).isoformat()
    return Hit(
        id=cube_id,
        text=memory.content.text,
        score=memory.score,
        version=version,
        metadata=memory.content.metadata,
        links=tuple(link.seen_from(cube_id) for link in followed.links if cube_id in (link.source_id, link.target_id)),
        agent_id=view.columns.header(memory.row, "agent_id"),
        run_id=view.columns.header(memory.row, "run_id"),
        event_time=from_us(int(view.event_time[memory.row])),
        why=why,
    )


def _path(via: Mapping[str, Link], cube_id: str) -> list[dict[str, Any]]:
    """Return the evidence chain that led to a memory, from what the question matched; empty if it matched itself."""
    chain: list[dict[str, Any]] = []
    seen = {cube_id}
    while (link := via.get(cube_id)) is not None and link.source_id not in seen:
        chain.append({"from": link.source_id, "to": link.target_id, "type": link.type, "score": link.score})
        cube_id = link.source_id
        seen.add(cube_id)
    return chain[::-1]


def context(chosen: Sequence[Hit], max_tokens: int | None, count_tokens: Callable[[str], int]) -> str:
    """Return the hits as dated lines in the order of time: the best ones that fit into ``max_tokens``.

    The count covers the finished block. A hit that does not fit is left out whole; a smaller one after it may fit.
    """
    lines = [(hit.event_time, f"[{hit.event_time:%Y-%m-%d}] {hit.text}") for hit in chosen]
    if max_tokens is not None:
        lines = _fitting(lines, max_tokens, count_tokens)
    return "\n".join(line for _, line in sorted(lines, key=lambda item: item[0]))


def _fitting(
    lines: Sequence[tuple[datetime, str]], budget: int, count_tokens: Callable[[str], int]
) -> list[tuple[datetime, str]]:
    kept = []
    for moment, line in lines:
        cost = count_tokens(line) + 1  # the line break
        if cost <= budget:
            kept.append((moment, line))
            budget -= cost
    return kept
