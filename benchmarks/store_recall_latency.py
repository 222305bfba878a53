"""How fast are store and recall beside raw Chroma, bm25s and exact NumPy, with embedding excluded?

Three shapes of the same number of memories: one user, a hundred times fewer users, users with ten memories each. Texts
are drawn from the vocabulary of Alice in Wonderland by its word frequencies, vectors from a mixture of Gaussians; both
are handed to every arm. Arms are interleaved, call by call, and medians compared:

  memos    this project through memos_sdk.Memory, whole call: filters, ranking, context block, SDK objects
  floor    raw Chroma, unfiltered top 50 of a collection of that user alone + bm25s top 50 over the same memories
  chroma   the first half of the floor;  filtered: one collection for all users, `where` naming one
  numpy    exact scan of that user's vectors and a partial sort

`store_many` goes in batches of 1,000. The vector index follows in a background thread; `drained` counts the time until
it has caught up.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import bm25s
import chromadb
import numpy as np
from chromadb.config import Settings as ChromaSettings
from embedders import GivenEmbedder
from harness import ROOT, Report, parser, table
from numpy.typing import NDArray

from memos_sdk import Memory

DIMENSION = 384
BATCH = 1_000
SAMPLED_USERS = 100
QUESTIONS = 300
SINGLES = 100
LATE = 10  # batches of either end compared for flatness


@dataclass
class Material:
    """Texts with vectors, and questions with vectors."""

    texts: list[str]
    vectors: NDArray[np.float32]
    questions: list[str]
    question_vectors: NDArray[np.float32]
    embedder: GivenEmbedder = field(default_factory=lambda: GivenEmbedder(DIMENSION))

    def __post_init__(self) -> None:
        self.embedder.give(self.texts, self.vectors)
        self.embedder.give(self.questions, self.question_vectors)


def material(count: int) -> Material:
    """Make ``count`` distinct texts of 8 to 30 words, and questions of 4 to 9."""
    random = np.random.default_rng(7)
    words = np.array(re.findall(r"[a-z]+", (ROOT / "memos" / "demo" / "alice.txt").read_text().lower()))
    texts = [f"{' '.join(random.choice(words, random.integers(8, 31)))} #{number}" for number in range(count)]
    questions = [f"{' '.join(random.choice(words, random.integers(4, 10)))}?" for _ in range(QUESTIONS)]
    centres = random.standard_normal((500, DIMENSION)).astype(np.float32)
    return Material(texts, _around(centres, count, random), questions, _around(centres, QUESTIONS, random))


def _around(centres: NDArray[np.float32], count: int, random: np.random.Generator) -> NDArray[np.float32]:
    vectors = centres[random.integers(0, len(centres), count)]
    vectors = vectors + 0.7 * random.standard_normal(vectors.shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@contextmanager
def raw_chroma() -> Iterator[Any]:
    """Open a persistent Chroma client in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        client = chromadb.PersistentClient(folder, settings=ChromaSettings(anonymized_telemetry=False))
        try:
            yield client
        finally:
            client.close()


def new_collection(client: Any, name: str) -> Any:
    """Create an empty cosine collection with Chroma's defaults otherwise."""
    return client.create_collection(name, embedding_function=None, metadata={"hnsw:space": "cosine"})


# ---------------------------------------------------------------- storing


@dataclass
class Stored:
    """A filled store and what filling took, seconds per batch of memos and of raw Chroma."""

    memos: list[float] = field(default_factory=list)
    chroma: list[float] = field(default_factory=list)
    drained: float = 0.0

    def rate(self, arm: str, part: slice = slice(None)) -> float:
        """Return memories per second over some batches."""
        batches = getattr(self, arm)[part]
        return BATCH * len(batches) / sum(batches)


def fill(memory: Memory, collection: Any, stuff: Material, users: int) -> Stored:
    """Store everything on both arms, batch by batch in turn; users take turns within the whole."""
    stored = Stored()
    for start in range(0, len(stuff.texts), BATCH):
        places = range(start, start + BATCH)
        groups: dict[int, list[int]] = {}
        for place in places:
            groups.setdefault(user_of(place, len(stuff.texts), users), []).append(place)
        began = time.perf_counter()
        for user, members in groups.items():
            memory.store_many([{"text": stuff.texts[i], "infer": False} for i in members], user_id=f"u{user}")
        stored.memos.append(time.perf_counter() - began)
        began = time.perf_counter()
        collection.add(
            ids=[f"{place:032x}" for place in places],
            embeddings=stuff.vectors[start : start + BATCH],
            metadatas=[{"user": user_of(place, len(stuff.texts), users)} for place in places],
        )
        stored.chroma.append(time.perf_counter() - began)
    began = time.perf_counter()
    drain(memory)
    stored.drained = time.perf_counter() - began
    return stored


def user_of(place: int, total: int, users: int) -> int:
    """Return whose memory it is: consecutive memories belong to the same user."""
    return place * users // total


def drain(memory: Memory) -> None:
    """Wait until the vector index has taken in everything."""
    engine = memory._transport._wire.engine  # type: ignore[attr-defined]  # the figure needs the inside
    while engine.relay.drain():
        pass


def singles(memory: Memory, collection: Any, stuff: Material, random: np.random.Generator) -> tuple[float, float]:
    """Return median seconds of one store, memos and raw Chroma in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(SINGLES):
        text = f"a single memory {number} {random.random()}"
        vector = stuff.vectors[number : number + 1]
        stuff.embedder.give([text], vector)
        times[0].append(timed(lambda text=text: memory.store(text, user_id="u0", infer=False)))
        times[1].append(
            timed(
                lambda text=text, vector=vector: collection.add(ids=[text], embeddings=vector, metadatas=[{"user": 0}])
            )
        )
    return statistics.median(times[0]), statistics.median(times[1])


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# ---------------------------------------------------------------- recalling


@dataclass
class Floor:
    """Raw Chroma, bm25s and NumPy over one user's memories."""

    collection: Any
    bm25: Any
    vectors: NDArray[np.float32]

    @classmethod
    def over(cls, client: Any, user: int, texts: list[str], vectors: NDArray[np.float32]) -> Floor:
        """Index one user's memories."""
        collection = new_collection(client, f"user-{user}")
        for start in range(0, len(texts), 5_000):
            part = slice(start, start + 5_000)
            collection.add(ids=[str(i) for i in range(*part.indices(len(texts)))], embeddings=vectors[part])
        index = bm25s.BM25()
        index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        return cls(collection, index, vectors)

    def chroma(self, vector: NDArray[np.float32]) -> None:
        """Ask Chroma for 50, unfiltered."""
        self.collection.query(
            query_embeddings=vector[None],
            n_results=min(50, len(self.vectors)),
            include=["distances"],
        )

    def lexical(self, question: str) -> None:
        """Ask bm25s for 50."""
        tokens = bm25s.tokenize(question, stopwords="en", show_progress=False, return_ids=False)
        self.bm25.retrieve(tokens, k=min(50, len(self.vectors)), show_progress=False)

    def exact(self, vector: NDArray[np.float32]) -> None:
        """Scan all vectors and take the best 50."""
        scores = self.vectors @ vector
        count = min(50, len(scores))
        np.argpartition(scores, -count)[-count:]


def recall(memory: Memory, client: Any, collection: Any, stuff: Material, users: int) -> dict[str, float]:
    """Return median milliseconds of every arm, users and questions drawn once, arms in turn."""
    random = np.random.default_rng(11)
    total = len(stuff.texts)
    sampled = random.choice(users, min(users, SAMPLED_USERS), replace=False).tolist()
    floors = {user: _floor(client, stuff, user, users) for user in sampled}
    laps: dict[str, list[float]] = {arm: [] for arm in ("memos", "chroma", "bm25", "numpy", "filtered")}
    for number in range(-len(sampled), QUESTIONS):  # negative: once over every user to warm all arms
        user = sampled[number % len(sampled)]
        question, vector = stuff.questions[number], stuff.question_vectors[number]
        floor = floors[user]
        arms: dict[str, Callable[[], Any]] = {
            "memos": lambda q=question, u=user: memory.recall(q, user_id=f"u{u}", top_k=10),
            "chroma": lambda f=floor, v=vector: f.chroma(v),
            "bm25": lambda f=floor, q=question: f.lexical(q),
            "numpy": lambda f=floor, v=vector: f.exact(v),
        }
        if users > 1 and total <= 100_000:
            arms["filtered"] = lambda v=vector, u=user: collection.query(
                query_embeddings=v[None], n_results=10, where={"user": u}, include=["distances"]
            )
        for arm, call in arms.items():
            seconds = timed(call)
            if number >= 0:
                laps[arm].append(seconds * 1e3)
    return {arm: statistics.median(values) for arm, values in laps.items() if values}


def _floor(client: Any, stuff: Material, user: int, users: int) -> Floor:
    total = len(stuff.texts)
    places = [i for i in range(total) if user_of(i, total, users) == user] if users > 1 else range(total)
    return Floor.over(client, user, [stuff.texts[i] for i in places], stuff.vectors[list(places)])


# ---------------------------------------------------------------- importing it


def import_seconds(module: str) -> float:
    """Return the median time of importing a module in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(7)
    ]
    return statistics.median(runs)


# ---------------------------------------------------------------- the run


def shape(report: Report, total: int, users: int) -> Stored:
    """Measure one shape and add its row."""
    print(f"{users:,} users x {total // users:,} memories", flush=True)
    stuff = material(total)
    with (
        tempfile.TemporaryDirectory() as home,
        raw_chroma() as client,
        Memory(path=home, embedder=stuff.embedder) as memory,
    ):
        everyone = new_collection(client, "everyone")
        stored = fill(memory, everyone, stuff, users)
        ours, theirs = singles(memory, everyone, stuff, np.random.default_rng(3))
        drain(memory)
        laps = recall(memory, client, everyone, stuff, users)
    floor = laps["chroma"] + laps["bm25"]
    report.rows.append(
        {
            "users": users,
            "each": total // users,
            "recall_ms": laps["memos"],
            "floor_ms": floor,
            "over_floor": laps["memos"] / floor,
            "chroma_ms": laps["chroma"],
            "bm25s_ms": laps["bm25"],
            "numpy_ms": laps["numpy"],
            "filtered_ms": laps.get("filtered"),
            "store_many_per_s": stored.rate("memos"),
            "chroma_add_per_s": stored.rate("chroma"),
            "store_many_ratio": stored.rate("memos") / stored.rate("chroma"),
            "drained_ratio": sum(stored.chroma) / (sum(stored.memos) + stored.drained),
            "store_ms": ours * 1e3,
            "chroma_one_ms": theirs * 1e3,
            "store_ratio": ours / theirs,
        }
    )
    return stored


def main() -> int:
    """Run all shapes and sizes."""
    arguments = parser(__doc__).parse_args()
    report = Report("store_recall_latency", arguments)
    largest = 10_000 if arguments.quick else 100_000
    for total in (size for size in (1_000, 10_000, 100_000) if size <= largest):
        for users in (1, max(1, total // 1_000), total // 10):
            if any(row["users"] == users and row["users"] * row["each"] == total for row in report.rows):
                continue
            stored = shape(report, total, users)
            if users == 1 and total == largest:
                report.figures["store_many_vs_chroma"] = stored.rate("memos") / stored.rate("chroma")
                early, late = (
                    stored.rate("memos", slice(0, LATE)),
                    stored.rate("memos", slice(-LATE, None)),
                )
                report.figures["store_flatness"] = late / early
                report.figures["store_one_vs_chroma"] = report.rows[-1]["store_ratio"]
                report.figures["store_many_drained_vs_chroma"] = report.rows[-1]["drained_ratio"]
    table(report.rows)
    for name, users in (("1x100k", 1), ("100x1k", largest // 1_000), ("10kx10", largest // 10)):
        row = next(r for r in report.rows if r["users"] == users and users * r["each"] == largest)
        report.figures[f"recall_over_floor_{name}"] = row["over_floor"]
    if arguments.quick:
        report.notes.append("--quick: 10,000 memories instead of 100,000 in every shape")
    report.figures["import_sdk_s"] = import_seconds("memos_sdk")
    report.figures["import_memos_s"] = import_seconds("memos")
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
