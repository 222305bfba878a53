"""What counting uses adds to a recall: 2,000 memories, the real embedder, ten memories found by each recall.

recall   p50 of whole recalls, and of what is left of them without embedding the question
count    what a recall waits for: ten uses put down in memory
flush    the write behind it, in another thread, divided by the recalls that fit between two of them
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from harness import Report, parser, table

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.schedule.heat import GATHER_S, Cooling, HeatLog

USER = Scope(user_id="bench")
MEMORIES, FOUND = 2_000, 10
PLACES = ("harbour", "garden", "library", "station", "market", "museum", "bakery", "school")
THINGS = ("a red umbrella", "two tickets", "the old map", "some bread", "a letter", "the blue key", "a bicycle")


def main() -> int:
    """Measure everything."""
    arguments = parser(__doc__ or "").parse_args()
    report = Report("heat", arguments)
    questions = 50 if arguments.quick else 500
    with tempfile.TemporaryDirectory() as home, MemoryOS(Settings(home=Path(home), notes="off")) as engine:
        texts = [
            f"On day {number} Ann left {THINGS[number % len(THINGS)]} at the {PLACES[number % len(PLACES)]}."
            for number in range(MEMORIES)
        ]
        cubes = engine.store_many(USER, [{"text": text} for text in texts])
        whole, bare = _recalls(engine, questions)
        log = HeatLog(engine.database, Cooling.days(7))
        counted, flushed = _counts(log, [cube.id for cube in cubes], questions)
        log.close()
    between = max(1.0, GATHER_S / whole)
    row = {
        "recall_p50_ms": whole * 1e3,
        "without_embedding_p50_ms": bare * 1e3,
        "count_us": counted * 1e6,
        "flush_ms": flushed * 1e3,
        "recalls_per_flush": between,
    }
    report.rows.append(row)
    table(report.rows)
    report.figures["heat_share_of_recall"] = (counted + flushed / between) / whole
    report.figures["heat_wait_share_of_recall"] = counted / whole
    report.figures["heat_wait_share_without_embedding"] = counted / bare
    report.finish()
    return 0


def _recalls(engine: MemoryOS, questions: int) -> tuple[float, float]:
    """Return the median seconds of a recall, and of one without its embedding."""
    whole, bare = [], []
    for number in range(questions + 10):
        question = f"Where did Ann leave {THINGS[number % len(THINGS)]} on day {number * 7 % MEMORIES}?"
        start = time.perf_counter()
        found = engine.recall(USER, question, top_k=FOUND, explain=True)
        whole.append(time.perf_counter() - start)
        bare.append(whole[-1] - found.timings["embed"] / 1e3)
    return statistics.median(whole[10:]), statistics.median(bare[10:])


def _counts(log: HeatLog, ids: list[str], times: int) -> tuple[float, float]:
    """Return the median seconds to count ten uses, and to write those of as many recalls as one write has."""
    counted, flushed = [], []
    for number in range(times):
        start = time.perf_counter()
        log.count(USER, ids[number * FOUND % MEMORIES :][:FOUND])
        counted.append(time.perf_counter() - start)
        if number % 50 == 49:
            start = time.perf_counter()
            log.flush()
            flushed.append(time.perf_counter() - start)
    return statistics.median(counted), statistics.median(flushed)


if __name__ == "__main__":
    raise SystemExit(main())
