"""Processes that write to a store until they are killed.

Run as a script it reads orders from standard input, one JSON object a line, and forks a writer for each, so that a
round costs a fork and not an import. Writers announce every operation before they begin it and again once it is
acknowledged, a line each, written at once: whatever moment the kill comes at, the reader knows what was promised.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS

HashEmbedder = runpy.run_path(str(Path(__file__).resolve().parents[1] / "conftest.py"))["HashEmbedder"]
SCOPE = Scope(user_id="writer")
LARGEST_BATCH = 90  # its ids fit into one line that a pipe takes whole (4,096 bytes)
_WORDS = "amber birch cedar delta ember fjord grove heath islet knoll larch maple north ocean pearl quartz".split()


@dataclass(frozen=True, slots=True)
class Order:
    """One round: where to write, and how. Rounds never touch what another round wrote."""

    home: str
    round: int
    index_threshold: int = 8_000
    changes: bool = True  # update and forget too


def say(**event: Any) -> None:
    """Write one line, in one call."""
    os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")


def text_of(tag: str, index: int) -> str:
    """Return the text of one item of a batch, which nothing else shares."""
    chosen = random.Random(f"{tag}/{index}").sample(_WORDS, 5)
    return f"note {tag}i{index} about {' '.join(chosen)}"


class Writer:
    """Stores, updates and forgets at random, each announced before and after."""

    def __init__(self, engine: MemoryOS, order: Order) -> None:
        self.engine = engine
        self.order = order
        self.random = random.Random(order.round)
        self.batches = 0
        self.own: dict[str, int] = {}

    def step(self) -> None:
        """Do one operation."""
        choices: list[Callable[[], None]] = [self.store]
        if self.order.changes and len(self.own) > 5:
            choices += [self.update, self.forget]
        self.random.choice(choices)()

    def store(self) -> None:
        """Store a batch of random size."""
        tag = f"r{self.order.round}b{self.batches}"
        self.batches += 1
        size = self.random.randint(1, LARGEST_BATCH)
        say(begin="store", tag=tag, size=size)
        cubes = self.engine.store_many(
            SCOPE,
            [{"text": text_of(tag, i), "metadata": {"batch": tag}} for i in range(size)],
        )
        self.own.update((cube.id, 1) for cube in cubes)
        say(done="store", tag=tag, ids=[cube.id for cube in cubes])

    def update(self) -> None:
        """Write a new version of one memory of this round."""
        cube_id = self.random.choice(sorted(self.own))
        version = self.own[cube_id] + 1
        text = f"note {cube_id} rewritten as version {version}"
        say(begin="update", id=cube_id, version=version, text=text)
        self.engine.update(SCOPE.tenant, cube_id, text=text, expected_version=version - 1)
        self.own[cube_id] = version
        say(done="update", id=cube_id, version=version, text=text)

    def forget(self) -> None:
        """Forget one memory of this round."""
        cube_id = self.random.choice(sorted(self.own))
        del self.own[cube_id]
        say(begin="forget", id=cube_id)
        receipt = self.engine.forget(SCOPE.tenant, cube_id)
        say(done="forget", id=cube_id, pending=receipt.pending)


def write_until_killed(order: Order) -> None:
    """Open the store and write; on an error say so and wait for the end."""
    try:
        settings = Settings(home=Path(order.home), index_threshold=order.index_threshold)
        writer = Writer(MemoryOS(settings, HashEmbedder()), order)
        say(opened=True)
        while True:
            writer.step()
    except Exception:  # noqa: BLE001  # whatever it is, the test must see it
        say(error=traceback.format_exc()[-3_000:])
        signal.pause()


def main() -> None:
    """Fork a writer for every order; say its process id, and when it has ended."""
    if "--chroma" in sys.argv:
        import chromadb  # noqa: F401  # once for all writers
    for line in sys.stdin:
        order = Order(**json.loads(line))
        child = os.fork()
        if child == 0:
            write_until_killed(order)
            os._exit(1)
        say(started=child)
        os.waitpid(child, 0)
        say(ended=child)


if __name__ == "__main__":
    main()
