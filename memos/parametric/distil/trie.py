"""Token sequences packed into one row: what several begin with is computed once.

Sequences are merged into a trie whose nodes are rows of one forward; a row attends its ancestors and itself, and its
position is its depth. Causal models give every node what they give the sequence alone, so eight questions behind one
system message cost the message once. (The tree attention of speculative decoding, arXiv:2305.09781, for training.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Packed:
    """``tokens`` and ``positions`` are int64 ``[T]``; ``visible`` is bool ``[T, T]``, rows see columns.

    ``rows`` has for each sequence the row of each of its tokens.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    rows: tuple[tuple[int, ...], ...]


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """Merge sequences into a trie."""
    places: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    rows = []
    for sequence in sequences:
        row, path = -1, []
        for token in sequence:
            if (row, token) not in places:
                places[row, token] = len(tokens)
                tokens.append(token)
                parents.append(row)
            row = places[row, token]
            path.append(row)
        rows.append(tuple(path))
    visible = torch.eye(len(tokens), dtype=torch.bool)
    for row, parent in enumerate(parents):
        if parent >= 0:
            visible[row] |= visible[parent]
    return Packed(torch.tensor(tokens), visible.sum(1) - 1, visible, tuple(rows))


def packs(sequences: Sequence[Sequence[int]], limit: int) -> Iterator[tuple[int, Packed]]:
    """Yield packs of at most ``limit`` tokens, unmerged, or of one longer sequence, each with its first's place."""
    first = 0
    while first < len(sequences):
        last, count = first + 1, len(sequences[first])
        while last < len(sequences) and count + len(sequences[last]) <= limit:
            count += len(sequences[last])
            last += 1
        yield first, pack(sequences[first:last])
        first = last
