"""What fusing does to recall: places and characters that it saves, and whether the evidence is still found.

LoCoMo as in recall_quality.py (one memory per turn, notes off), and the same told again: every fifth turn a second time
with a sentence of another turn behind it, as users repeat themselves. Before and after everything that repeats is
fused, a hit counts for what it was fused from; so R@k is the share of gold evidence within the first k hits, and
`characters` are those of the first ten.

  memories     that recall can return
  clusters     fused, and how many memories in them
  kept         characters of the fused memories, as a share of those of their sources
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from embedders import RememberingEmbedder
from harness import Report, parser, table
from recall_quality import DEPTHS, Conversation, locomo

from memos.config import Settings
from memos.cube import Scope, State
from memos.engine import MemoryOS
from memos.store.jobs import FINAL

#: Every so many turns one is told again.
AGAIN = 5


def told_again(conversation: Conversation) -> Conversation:
    """Return a conversation in which some turns are repeated with something new behind them."""
    turns = list(conversation.turns)
    for place in range(0, len(conversation.turns), AGAIN):
        turn = conversation.turns[place]
        other = conversation.turns[(place + 7) % len(conversation.turns)]["text"].partition(": ")[2]
        turns.append({**turn, "text": f"{turn['text']} {other[:40].rsplit(' ', 1)[0]}."})
    return replace(conversation, turns=turns)


class Asked:
    """One conversation in a store of its own."""

    def __init__(self, engine: MemoryOS, conversation: Conversation, turns: int) -> None:
        self._engine = engine
        self._conversation = conversation
        self._scope = Scope(user_id=f"{conversation.name}-{len(conversation.turns)}")
        cubes = engine.store_many(self._scope, conversation.turns)
        #: What is told again counts as the turn that it repeats.
        again = range(0, turns, AGAIN)
        self._place = {cube.id: n if n < turns else again[n - turns] for n, cube in enumerate(cubes)}
        self.memories = len(cubes)

    def row(self) -> dict[str, Any]:
        """Ask everything; return shares of gold evidence, and characters of the first ten hits."""
        found: dict[str, list[float]] = {f"R@{depth}": [] for depth in DEPTHS}
        length = []
        for question in self._conversation.questions:
            hits = self._engine.recall(self._scope, question.text, top_k=max(DEPTHS)).hits
            places = [self._places(hit.id) for hit in hits]
            for depth in DEPTHS:
                within = set().union(*places[:depth])
                found[f"R@{depth}"].append(len(question.gold & within) / len(question.gold))
            length.append(sum(len(hit.text) for hit in hits[:10]))
        return {**found, "characters": length}

    def fuse(self) -> dict[str, float]:
        """Fuse what repeats; return what that came to."""
        started = time.perf_counter()
        moves = self._engine.fuse(self._scope)
        planned = time.perf_counter() - started
        self._engine.fuse(self._scope, dry_run=False)
        while any(job.state not in FINAL for job in self._engine.jobs(self._scope, limit=1_000)):
            time.sleep(0.05)
        cubes = [cube for cube in self._engine.list(self._scope, limit=1_000) if cube.state is State.MERGED]
        sources = [self._engine.expand("default", cube.id) for cube in cubes]
        return {
            "clusters": len(moves),
            "fused": sum(map(len, sources)),
            "before": sum(len(one.text or "") for some in sources for one in some),
            "after": sum(len(cube.text or "") for cube in cubes),
            "plan_s": planned,
            "fuse_s": time.perf_counter() - started - 2 * planned,  # it is planned anew
        }

    def _places(self, cube_id: str) -> set[int]:
        if cube_id not in self._place:
            return {self._place[cube.id] for cube in self._engine.expand("default", cube_id)}
        return {self._place[cube_id]}


def measure(report: Report, data: str, engine: MemoryOS, conversations: list[Conversation], turns: list[int]) -> None:
    """Add the rows before and after fusing."""
    asked = [Asked(engine, *one) for one in zip(conversations, turns, strict=True)]
    memories = sum(one.memories for one in asked)
    _row(report, data, "apart", memories, [one.row() for one in asked], {})
    made = [one.fuse() for one in asked]
    total = {name: sum(one[name] for one in made) for name in made[0]}
    more = {
        "clusters": total["clusters"],
        "in them": total["fused"],
        "kept": total["after"] / max(1, total["before"]),
        "ms per fusion": 1e3 * total["fuse_s"] / max(1, total["clusters"]),
        "plan s": max(one["plan_s"] for one in made),
    }
    left = memories - int(total["fused"]) + int(total["clusters"])
    _row(report, data, "fused", left, [one.row() for one in asked], more)


def _row(
    report: Report, data: str, how: str, memories: int, found: list[dict[str, Any]], more: dict[str, float]
) -> None:
    means = {name: float(np.mean([value for one in found for value in one[name]])) for name in found[0]}
    report.rows.append({"data": data, "how": how, "memories": memories, **means, **more})
    report.figures[f"{data}_r10_{how}"] = means["R@10"]
    report.figures[f"{data}_characters_{how}"] = means["characters"]
    print(f"{data}: {how}", flush=True)


def main() -> int:
    """Run both data sets."""
    options = parser(__doc__, data=True)
    arguments = options.parse_args()
    report = Report("fusing", arguments)
    conversations = locomo(Path(arguments.data or "no-data"))[: 2 if arguments.quick else None]
    if not conversations:
        report.missing("locomo_r10_fused", "no data; give --data DIR or set MEMOS_EVAL_DATA")
        report.finish()
        return 0
    turns = [len(one.turns) for one in conversations]
    with (
        tempfile.TemporaryDirectory() as home,
        MemoryOS(Settings(home=Path(home), notes="off"), RememberingEmbedder()) as engine,
    ):
        measure(report, "locomo", engine, conversations, turns)
        measure(report, "told_again", engine, list(map(told_again, conversations)), turns)
    table(report.rows)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
