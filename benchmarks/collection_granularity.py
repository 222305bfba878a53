"""How should vectors be split into Chroma collections, and from which size does a collection pay at all?

Median milliseconds of one nearest-neighbour query, all arms in turn on the same vectors:

  scan      exact NumPy over the namespace's own vectors, top 64
  own       a Chroma collection of that namespace alone
  filtered  one collection for all namespaces, `where` naming one
  cold      the first query to a collection after it was written (index loaded from disk)

and what one more collection costs to create, in milliseconds and bytes on disk. `crossover` is the size of a namespace
from which Chroma answers faster than a scan; `memos` gives a namespace a collection from `index_threshold` on.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings as ChromaSettings
from harness import Report, parser, table
from numpy.typing import NDArray

DIMENSION = 384
WANTED = 64
QUERIES = 200
SMALL = 200  # collections of ten vectors made to measure what one costs


def vectors(count: int) -> NDArray[np.float32]:
    """Return unit vectors around five hundred centres."""
    random = np.random.default_rng(5)
    centres = random.standard_normal((500, DIMENSION)).astype(np.float32)
    made = centres[random.integers(0, 500, count)]
    made = made + 0.7 * random.standard_normal(made.shape).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def add(collection: Any, rows: NDArray[np.float32], users: int = 1) -> None:
    """Add rows in batches, users taking equal consecutive parts."""
    for start in range(0, len(rows), 5_000):
        places = range(start, min(start + 5_000, len(rows)))
        owners = [{"user": place * users // len(rows)} for place in places]
        collection.add(
            ids=[str(place) for place in places],
            embeddings=rows[start : places.stop],
            metadatas=owners,
        )


def milliseconds(call: Any) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def scan(rows: NDArray[np.float32], query: NDArray[np.float32]) -> None:
    """Compare with all rows and take the best."""
    scores = rows @ query
    count = min(WANTED, len(scores))
    np.argpartition(scores, -count)[-count:]


def single(client: Any, rows: NDArray[np.float32]) -> dict[str, Any]:
    """Measure a namespace of ``len(rows)`` vectors: scan against a collection of its own."""
    collection = client.create_collection(
        f"own-{len(rows)}", embedding_function=None, metadata={"hnsw:space": "cosine"}
    )
    add(collection, rows)
    laps: dict[str, list[float]] = {"scan": [], "own": []}
    for number in range(-10, QUERIES):
        query = rows[number]
        one = milliseconds(lambda q=query: scan(rows, q))
        other = milliseconds(
            lambda q=query: collection.query(query_embeddings=q[None], n_results=min(WANTED, len(rows)), include=[])
        )
        if number >= 0:
            laps["scan"].append(one)
            laps["own"].append(other)
    return {
        "shape": "1 namespace",
        "each": len(rows),
        "scan_ms": statistics.median(laps["scan"]),
        "own_ms": statistics.median(laps["own"]),
        "filtered_ms": None,
    }


def shared(client: Any, rows: NDArray[np.float32], users: int) -> dict[str, Any]:
    """Measure one collection for everybody, filtered by user, against a scan of the user's own vectors."""
    collection = client.create_collection(f"all-{users}", embedding_function=None, metadata={"hnsw:space": "cosine"})
    add(collection, rows, users)
    each = len(rows) // users
    laps: dict[str, list[float]] = {"scan": [], "filtered": []}
    for number in range(-5, QUERIES // 2):
        user = number * 7919 % users
        own = rows[user * each : (user + 1) * each]
        query = rows[number]
        one = milliseconds(lambda q=query, r=own: scan(r, q))
        other = milliseconds(
            lambda q=query, u=user: collection.query(
                query_embeddings=q[None], n_results=min(WANTED, each), where={"user": u}, include=[]
            )
        )
        if number >= 0:
            laps["scan"].append(one)
            laps["filtered"].append(other)
    return {
        "shape": f"{users} namespaces",
        "each": each,
        "scan_ms": statistics.median(laps["scan"]),
        "own_ms": None,
        "filtered_ms": statistics.median(laps["filtered"]),
    }


def one_more(client: Any, folder: Path, rows: NDArray[np.float32]) -> dict[str, float]:
    """Return what a collection of ten vectors costs to make, to ask first, and on disk."""
    before = _bytes(folder)
    made, cold, warm = [], [], []
    for number in range(SMALL):
        began = time.perf_counter()
        collection = client.create_collection(f"small-{number}", embedding_function=None)
        add(collection, rows[:10])
        made.append((time.perf_counter() - began) * 1e3)
        ask = lambda c=collection: c.query(query_embeddings=rows[:1], n_results=10, include=[])  # noqa: E731
        cold.append(milliseconds(ask))
        warm.append(milliseconds(ask))
    return {
        "collection_create_ms": statistics.median(made),
        "collection_cold_query_ms": statistics.median(cold),
        "collection_warm_query_ms": statistics.median(warm),
        "collection_bytes": (_bytes(folder) - before) / SMALL,
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def crossover(rows: list[dict[str, Any]]) -> float | None:
    """Return the size from which a collection of its own is faster than a scan, interpolated."""
    alone = sorted((row for row in rows if row["own_ms"] is not None), key=lambda row: row["each"])
    for smaller, larger in itertools.pairwise(alone):
        gaps = [row["scan_ms"] - row["own_ms"] for row in (smaller, larger)]
        if gaps[0] <= 0 < gaps[1]:
            share = -gaps[0] / (gaps[1] - gaps[0])
            return float(smaller["each"] + share * (larger["each"] - smaller["each"]))
    return None


def main() -> int:
    """Run all shapes."""
    arguments = parser(__doc__).parse_args()
    report = Report("collection_granularity", arguments)
    sizes = (1_000, 5_000, 10_000, 20_000) if arguments.quick else (1_000, 5_000, 10_000, 20_000, 50_000, 100_000)
    rows = vectors(sizes[-1])
    with tempfile.TemporaryDirectory() as folder:
        client = chromadb.PersistentClient(folder, settings=ChromaSettings(anonymized_telemetry=False))
        report.rows += [single(client, rows[:size]) for size in sizes]
        report.rows += [shared(client, rows, users) for users in (sizes[-1] // 1_000, sizes[-1] // 10)]
        report.figures |= one_more(client, Path(folder), rows)
        client.close()
    table(report.rows)
    found = crossover(report.rows)
    if found is None:
        report.missing("crossover", "a scan was faster at every size measured")
    else:
        report.figures["crossover"] = found
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
