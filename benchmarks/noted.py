"""Stores whose notes are written by rules: made once for a data set, asked in several ways."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from memos.plaintext import graph
from memos.plaintext.ranking import Query, Ranking, ordered
from memos.store.links import LinkRepository
from memos.store.view import NamespaceView
from memos_sdk import Memory

#: Share of the walk that goes on along a link.
WALK = 0.5


class Noted:
    """Memories with notes. ``writing`` and ``asking`` replace attributes of the engine's modules, by dotted name."""

    def __init__(self, embedder: Any, writing: Mapping[str, Any] | None = None) -> None:
        self._embedder = embedder
        self._writing = writing or {}
        self._open = ExitStack()
        self._stores: dict[str, tuple[Memory, dict[str, int]]] = {}

    def asked(self, depth: int, **asking: Any) -> Callable[[Sequence[Any]], list[list[list[int]]]]:
        """Return a system that ranks the turns of every conversation for each of its questions."""

        def run(conversations: Sequence[Any]) -> list[list[list[int]]]:
            made = [self._made(conversation) for conversation in conversations]
            with _replaced(asking):
                return [
                    _ranked(memory, place, conversation, depth)
                    for (memory, place), conversation in zip(made, conversations, strict=True)
                ]

        return run

    def close(self) -> None:
        """Close and remove every store."""
        self._open.close()

    def _made(self, conversation: Any) -> tuple[Memory, dict[str, int]]:
        if conversation.name not in self._stores:
            home = self._open.enter_context(tempfile.TemporaryDirectory())
            memory = self._open.enter_context(Memory(path=home, embedder=self._embedder))
            with _replaced(self._writing):
                turns = [{**turn, "infer": True} for turn in conversation.turns]
                cubes = memory.store_many(turns, user_id=conversation.name)
                memory.wait(memory.refine(user_id=conversation.name))
            self._stores[conversation.name] = memory, {cube.id: index for index, cube in enumerate(cubes)}
        return self._stores[conversation.name]


@contextmanager
def _replaced(attributes: Mapping[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in attributes.items():
            stack.enter_context(patch(name, value))
        yield


def _ranked(memory: Memory, place: Mapping[str, int], conversation: Any, depth: int) -> list[list[int]]:
    asked = (memory.recall(one.text, user_id=conversation.name, top_k=depth) for one in conversation.questions)
    return [[place[hit.id] for hit in found.hits] for found in asked]


def pagerank(
    ranking: Ranking, links: LinkRepository, view: NamespaceView, query: Query, allowed: NDArray[np.bool_]
) -> graph.Followed:
    """:func:`memos.plaintext.graph.follow` by personalised PageRank over all links within two hops."""
    seeds = [view.cube_ids[row] for row in ranking.rows[: graph.SEEDS].tolist()]
    near = links.touching(seeds)
    found = links.touching(sorted({end for link in near for end in (link.source_id, link.target_id)}))
    if not found:
        return graph.Followed(ranking)
    ranking = graph._joined(ranking, graph._linked(ranking, found, view, allowed), view, query)
    place = {view.cube_ids[row]: index for index, row in enumerate(ranking.rows.tolist())}
    net = nx.Graph()
    net.add_weighted_edges_from(
        (link.source_id, link.target_id, link.score) for link in found if link.type not in graph.IDLE
    )
    start = {one: float(ranking.scores[place[one]]) for one in seeds if one in net}
    inherited = np.zeros(len(ranking.rows), np.float32)
    if start and sum(start.values()) > 0:
        walk = nx.pagerank(net, alpha=WALK, personalization=start, weight="weight")
        most = max(walk.values())
        for one in walk.keys() & place.keys():
            inherited[place[one]] = graph.LINK * ranking.scores.max() * walk[one] / most
    ranking = ordered(ranking.rows, {**ranking.parts, "links": inherited})
    return graph.Followed(graph._superseded(ranking, found, view, {}), found)
