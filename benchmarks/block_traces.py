"""Traces of cache requests: real ones from the evaluation data, and chats generated from a seed."""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

#: Tokens of a block of a prompt.
BLOCK = 512
LIRS = ("2_pools", "cpp", "cs", "gli", "loop", "multi1", "multi2", "multi3", "ps", "sprite")


@dataclass(frozen=True)
class Trace:
    """Prompts as chains of block keys, the first block first. A block is of use only behind those before it."""

    name: str
    chains: list[list[int]]

    @cached_property
    def blocks(self) -> list[tuple[int, str | None, int | None]]:
        """The key, label and preceding key of every block requested, in the order of the replay.

        The last block of a prompt comes first, as in serving engines, so that the first ones are evicted last. Labels
        tell the last block of a prompt, which a longer prompt does not have, from the others.
        """
        return [
            (key, "last" if place == len(chain) - 1 > 0 else None, chain[place - 1] if place else None)
            for chain in self.chains
            for place, key in reversed(list(enumerate(chain)))
        ]

    @cached_property
    def keys(self) -> list[int]:
        """The keys of all blocks requested, in the order of the replay."""
        return [key for key, _, _ in self.blocks]

    @cached_property
    def distinct(self) -> int:
        """The number of distinct blocks: the working set."""
        return len(set(self.keys))


def mooncake(folder: Path, most: int | None = None) -> Trace:
    """Read the development part of Mooncake's conversation trace."""
    lines = (folder / "mooncake" / "conversation_trace_dev.jsonl").read_text().splitlines()
    return Trace("mooncake", [json.loads(line)["hash_ids"] for line in lines[:most]])


def lirs(folder: Path, most: int) -> list[Trace]:
    """Read the first ``most`` requests of each LIRS trace; lines that are no number (print marks) are none."""
    traces = []
    for name in LIRS:
        lines = (folder / "traces" / "lirs" / f"{name}.trace").read_text().split()
        traces.append(Trace(name, [[int(line)] for line in lines if line.isdigit()][:most]))
    return traces


#: Three kinds of chats: how likely another turn is, and the seconds between turns.
CHATS: dict[str, dict[str, Any]] = {
    "chats": {"goes_on": 0.6, "pause": 60.0},
    "short chats": {"goes_on": 0.4, "pause": 200.0},
    "long chats": {"goes_on": 0.75, "pause": 30.0},
}


def chats(sessions: int) -> list[Trace]:
    """Generate conversations that share system prompts, all from fixed seeds."""
    return [_chats(name, sessions, **how) for name, how in CHATS.items()]


def _chats(name: str, sessions: int, goes_on: float, pause: float) -> Trace:
    draw = random.Random(0)
    made = iter(range(1 << 40))

    def new(mean: float) -> list[int]:
        return [next(made) for _ in range(max(1, int(draw.lognormvariate(mean, 1.0))))]

    systems = [new(1.0) for _ in range(20)]
    popular = [1 / (rank + 1) ** 1.2 for rank in range(20)]
    turns: list[tuple[float, int, list[int]]] = []
    moment = 0.0
    for session in range(sessions):
        moment += draw.expovariate(1.0)
        turns.append((moment, session, draw.choices(systems, popular)[0] + new(1.5)))
    heapq.heapify(turns)
    chains = []
    while turns:
        moment, session, chain = heapq.heappop(turns)
        chains.append([*chain, next(made)])  # its last block is not full; in a longer prompt another one stands there
        if draw.random() < goes_on:
            heapq.heappush(turns, (moment + pause * draw.lognormvariate(0, 1), session, chain + new(1.0)))
    return Trace(name, chains)
