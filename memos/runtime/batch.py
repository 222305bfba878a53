"""What one forward runs: rows of many sequences, where each row's keys and values go and what it may see."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np
import torch

from memos.runtime.pool import PAGE_TOKENS, PagePool
from memos.runtime.retrieval.names import Retrieval
from memos.runtime.sequence import Sequence
from memos_kernels import AdapterStep


class Part(NamedTuple):
    """Rows ``first .. first + tokens - 1`` of a packed forward: the next tokens of a sequence."""

    sequence: Sequence
    first: int
    tokens: int


class Rows(NamedTuple):
    """Neighbouring rows of a batch: those of ``sequences`` sequences, from one place in the tables on."""

    rows: slice
    sequences: slice
    starts: torch.Tensor


class Group(NamedTuple):
    """Rows of the sequences that go on after one prefix and attend it alike; ``rows`` is None where that is all."""

    sequence: Sequence
    rows: torch.Tensor | None


class Batch:
    """The tables of a forward, the same for every layer.

    Sequences that run one token come first: the attention kernel for single rows takes those, the one for many takes
    the others.
    """

    def __init__(self, pool: PagePool, parts: Many[Part], adapters: AdapterStep | None = None) -> None:
        self.pool = pool
        self.parts = parts
        self.adapters = adapters
        self.tokens: list[int] = []
        self.positions: list[int] = []
        for sequence, _, count in parts:
            self.tokens += sequence.tokens[sequence.cached : sequence.cached + count]
            self.positions += range(sequence.cached, sequence.cached + count)
        device = pool.slots.device
        table = _table(parts)
        #: int32 ``[layers, sequences, 2, blocks]``.
        self.table = torch.from_numpy(table).to(device)
        #: int32 ``[sequences]``: cached tokens in pages, those of this forward among them.
        self.lengths = _int32([sequence.paged + count for sequence, _, count in parts], device)
        owner = np.repeat(np.arange(len(parts)), [count for _, _, count in parts])
        behind = np.concatenate([np.arange(s.paged, s.paged + count) for s, _, count in parts])
        #: Where rows go: pages int64 ``[layers, 2, T]`` and the place in them, int64 ``[T]``.
        self.pages = torch.from_numpy(
            np.ascontiguousarray(table[:, owner, :, behind // PAGE_TOKENS].transpose(1, 2, 0), np.int64)
        ).to(device)
        self.places = torch.from_numpy(behind % PAGE_TOKENS).to(device)
        self.single, self.many = self._split(device)
        self.groups = _groups(parts, device)
        #: Places of sequences whose rows are noted.
        self.watched = [at for at, (sequence, _, _) in enumerate(parts) if sequence.watcher is not None]

    def _split(self, device: torch.device) -> tuple[Rows | None, Rows | None]:
        counts = [count for _, _, count in self.parts]
        single = next((at for at, count in enumerate(counts) if count > 1), len(counts))
        starts = _int32([0, *np.cumsum(counts[single:])], device)
        ones = Rows(slice(0, single), slice(0, single), starts)
        rest = Rows(slice(single, len(self.tokens)), slice(single, len(counts)), starts)
        return ones if single else None, rest if single < len(counts) else None


def _table(parts: Many[Part]) -> np.ndarray:
    blocks = [-(-(sequence.paged + count) // PAGE_TOKENS) for sequence, _, count in parts]
    layers = len(parts[0].sequence.pages)
    table = np.zeros((layers, len(parts), 2, max(blocks)), np.int32)
    for at, (sequence, _, _) in enumerate(parts):
        table[:, at, :, : blocks[at]] = sequence.pages[:, :, : blocks[at]]
    return table


def _groups(parts: Many[Part], device: torch.device) -> list[Group]:
    """Gather the rows that see one prefix, so that it is read once for all of them."""
    found: dict[tuple[int, Retrieval | None], tuple[Sequence, list[int]]] = {}
    for sequence, first, count in parts:
        if sequence.prefix is not None:
            alike = id(sequence.prefix), sequence.retrieval
            found.setdefault(alike, (sequence, []))[1].extend(range(first, first + count))
    total = sum(count for _, _, count in parts)
    return [
        Group(sequence, None if len(rows) == total else torch.tensor(rows, device=device))
        for sequence, rows in found.values()
    ]


def _int32(values: Many[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.int32, device=device)


def order(parts: Many[tuple[Sequence, int]]) -> list[Part]:
    """Return parts in the order a batch wants: sequences that run one token first."""
    result, first = [], 0
    for sequence, count in sorted(parts, key=lambda part: part[1] > 1):
        result.append(Part(sequence, first, count))
        first += count
    return result
