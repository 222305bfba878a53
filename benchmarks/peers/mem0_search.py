"""Run mem0 (PyPI ``mem0ai``) offline and without an LLM, for a side-by-side retrieval benchmark.

Usage, with the python of a virtual environment that has mem0 (it never shares ours)::

    python mem0_search.py REQUEST.json REPLY.json

    REQUEST: {"namespaces": {NAME: {"texts": [...], "vectors_npy": PATH, "queries": [...],
                                    "queries_npy": PATH}},
              "top_k": 50, "store": "chroma", "workdir": PATH}
    REPLY:   {"version": ..., "store": ..., "ranks": {NAME: [[indices into texts, best first]]},
              "add_seconds": ..., "search_ms_p50": ..., "notes": [...]}

What is measured
    mem0's own public path: one ``Memory.add(text, infer=False)`` per text (vector store, history
    database), then one ``Memory.search`` per query with ``filters={"user_id": ...}``, after every
    namespace has been added to the same collection. ``add_seconds`` is the sum of the add calls,
    ``search_ms_p50`` the median search call. Embedding costs nothing here: each call is handed its
    vector from the request, so that every system compared ranks by the same embeddings.

What is not measured
    - The LLM: with ``infer=False`` mem0 neither extracts facts nor links entities, so its entity
      boost has nothing to work on.
    - BM25 on chroma and faiss: mem0 has no keyword search for them and says so in a warning. mem0
      never adds keyword hits to the candidates either: BM25 only reorders the 4 x top_k (at least
      60) nearest by vector.
    - Reranking (off, as is mem0's default) and the score threshold. That is set to 0, its minimum:
      chroma and faiss scores are 1 / (1 + L2 distance squared), 0.2 or more for unit vectors, so
      nothing is cut; qdrant scores are cosines and those below 0 are cut in any case.
    - Blank queries, which mem0 refuses (they get an empty list), and empty texts, which it stores
      and never returns.

Stores
    - ``chroma`` (HNSW over the whole collection, filtered while searching) is the one to compare
      with: embedded, on disk, and not limited by a filter applied afterwards.
    - ``qdrant`` in local mode is mem0's default and comes with it. It scans exactly, in Python.
      It can do hybrid search offline once ``fastembed`` is installed and FASTEMBED_CACHE_PATH
      holds the ``Qdrant/bm25`` files as a Hugging Face cache (``config.json`` and stop word lists,
      no weights); without them it is dense only. spaCy with ``en_core_web_sm`` would lemmatise the
      text first; without it fastembed's own stemmer gets the text as it is.
    - ``faiss`` needs ``faiss-cpu``. It fetches 2 x 4 x top_k hits of all users, filters them
      afterwards and so can return too few; it rewrites its files on every add.

Everything is written to a new folder inside ``workdir``, which the caller removes. Network use is
off: no telemetry, no model hub, an LLM address that nothing listens on, and no run where mem0
would fetch a spaCy model. Checked against the source of mem0ai 2.2.1.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

STORE_PACKAGES = {"chroma": "chromadb", "qdrant": "qdrant-client", "faiss": "faiss-cpu"}
COLLECTION = "peers"
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Namespace:
    """One user of the benchmark: what to store and what to ask."""

    name: str
    user_id: str
    texts: list[str]
    vectors: Vectors
    queries: list[str]
    query_vectors: Vectors


@dataclass(frozen=True)
class Request:
    """A request with its vectors read."""

    namespaces: list[Namespace]
    top_k: int
    store: str
    workdir: Path


@dataclass
class Answers:
    """What the searches gave back."""

    ranks: dict[str, list[list[int]]] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    short: int = 0
    blank: int = 0


class GivenVectors:
    """Stands in for mem0's embedder: maps the text of the coming call to its given vector.

    One text at a time, so that equal texts may have different vectors. Any other text (with spaCy
    mem0 also embeds the entities of a query) is a KeyError; mem0 then goes on without entities.
    """

    def __init__(self) -> None:
        """Start without a vector."""
        self._known: dict[str, list[float]] = {}

    def give(self, text: str, vector: Vectors) -> None:
        """Set the vector of the text that mem0 is about to embed."""
        self._known = {text: vector.tolist()}

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """Return the vector of the text (mem0's embedder interface)."""
        return self._known[text]

    def embed_batch(self, texts: list[str], memory_action: str = "add") -> list[list[float]]:
        """Return the vectors of several texts (mem0's embedder interface)."""
        return [self.embed(text, memory_action) for text in texts]


def load_vectors(path: str, count: int) -> Vectors:
    """Read ``count`` unit vectors."""
    vectors: Vectors = np.load(path, allow_pickle=False).astype(np.float32, copy=False)
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"{path}: expected {count} vectors, got an array of {vectors.shape}")
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=UNIT_TOLERANCE):
        raise ValueError(f"{path}: vectors must have unit length")
    return vectors


def load_namespace(number: int, name: str, spec: dict[str, Any]) -> Namespace:
    """Read one namespace; its user id is a number since mem0 refuses ids with spaces."""
    texts, queries = spec["texts"], spec["queries"]
    return Namespace(
        name=name,
        user_id=f"user-{number}",
        texts=texts,
        vectors=load_vectors(spec["vectors_npy"], len(texts)),
        queries=queries,
        query_vectors=load_vectors(spec["queries_npy"], len(queries)),
    )


def load_request(path: Path) -> Request:
    """Read a request and the vectors that it names."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw["store"] not in STORE_PACKAGES:
        raise ValueError(f"store must be one of {sorted(STORE_PACKAGES)}, not {raw['store']!r}")
    if not raw["namespaces"]:
        raise ValueError("the request has no namespaces")
    return Request(
        namespaces=[
            load_namespace(number, name, spec) for number, (name, spec) in enumerate(raw["namespaces"].items())
        ],
        top_k=raw["top_k"],
        store=raw["store"],
        workdir=Path(raw["workdir"]).resolve(),
    )


def has_spacy() -> bool:
    """Say whether mem0 will use spaCy; refuse a spaCy whose model mem0 would download."""
    if importlib.util.find_spec("spacy") is None:
        return False
    if importlib.util.find_spec("en_core_web_sm") is None:
        raise RuntimeError("spaCy is here without en_core_web_sm: mem0 would download it")
    return True


def isolate(state: Path) -> None:
    """Keep mem0 and what it imports inside ``state`` and off the network; call before importing."""
    sys.dont_write_bytecode = True
    for name in ("HOME", "MEM0_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        folder = state / name.lower()
        folder.mkdir()
        os.environ[name] = str(folder)
    os.environ.pop("OPENROUTER_API_KEY", None)
    os.environ.update(
        MEM0_TELEMETRY="False",
        ANONYMIZED_TELEMETRY="False",
        HF_HUB_OFFLINE="1",
        OPENAI_API_KEY="x",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
    )
    os.chdir(state)  # chromadb reads a .env file of the working folder


def store_config(store: str, state: Path, dims: int) -> dict[str, Any]:
    """Return mem0's settings of a store; chroma's has no place for the dimensions."""
    config: dict[str, Any] = {"collection_name": COLLECTION, "path": str(state / store)}
    if store != "chroma":
        config["embedding_model_dims"] = dims
    return config


def open_memory(request: Request, state: Path, embedder: GivenVectors) -> Any:
    """Build a mem0 ``Memory`` that takes its vectors from ``embedder``."""
    from mem0 import Memory
    from mem0.utils.factory import EmbedderFactory

    EmbedderFactory.create = lambda *args, **kwargs: embedder
    dims = request.namespaces[0].vectors.shape[1]
    config = store_config(request.store, state, dims)
    return Memory.from_config(
        {
            "vector_store": {"provider": request.store, "config": config},
            "history_db_path": str(state / "history.db"),
        }
    )


def add_all(memory: Any, embedder: GivenVectors, namespace: Namespace) -> float:
    """Store each text as a memory that carries its index; return the seconds spent in mem0."""
    seconds = 0.0
    for index, text in enumerate(namespace.texts):
        embedder.give(text, namespace.vectors[index])
        start = time.perf_counter()
        added = memory.add(text, user_id=namespace.user_id, metadata={"index": index}, infer=False)
        seconds += time.perf_counter() - start
        if len(added["results"]) != 1:
            raise RuntimeError(f"mem0 kept {len(added['results'])} memories of text {index}")
    return seconds


def rank(results: list[dict[str, Any]], user_id: str) -> list[int]:
    """Map mem0's results back to indices, refusing another user's memory."""
    if any(result["user_id"] != user_id for result in results):
        raise RuntimeError(f"mem0 returned a memory of another user to {user_id}")
    return [result["metadata"]["index"] for result in results]


def search_all(memory: Any, embedder: GivenVectors, namespace: Namespace, top_k: int, answers: Answers) -> None:
    """Ask every query of a namespace; a blank one, which mem0 refuses, gets an empty list."""
    ranks = answers.ranks[namespace.name] = []
    wanted = min(top_k, len(namespace.texts))
    for raw, vector in zip(namespace.queries, namespace.query_vectors, strict=True):
        query = raw.strip()  # mem0 strips queries, but not texts
        if not query:
            answers.blank += 1
            ranks.append([])
            continue
        embedder.give(query, vector)
        start = time.perf_counter()
        found = memory.search(query, filters={"user_id": namespace.user_id}, top_k=top_k, threshold=0.0)
        answers.milliseconds.append((time.perf_counter() - start) * 1000.0)
        ranks.append(rank(found["results"], namespace.user_id))
        answers.short += len(ranks[-1]) < wanted


def keyword_note(memory: Any, user_id: str) -> str:
    """Say whether this store answers keyword searches here and now."""
    hits = memory.vector_store.keyword_search("probe", top_k=1, filters={"user_id": user_id})
    if hits is None:
        return "BM25 keyword search: inactive, dense only"
    return f"BM25 keyword search: active, {'with' if has_spacy() else 'without'} spaCy lemmas"


def notes_of(request: Request, answers: Answers, keyword: str) -> list[str]:
    """Return what a reader of the numbers must know."""
    package = STORE_PACKAGES[request.store]
    notes = [
        f"vector store: {package} {importlib.metadata.version(package)}, embedded, on disk",
        keyword,
        "infer=False: no LLM, no entity links; threshold 0, no reranker; embedding time excluded",
    ]
    if answers.short:
        notes.append(f"{answers.short} searches returned fewer than min(top_k, stored) memories")
    if answers.blank:
        notes.append(f"{answers.blank} blank queries were not asked: mem0 refuses them")
    return notes


def run(request: Request, state: Path) -> dict[str, Any]:
    """Add everything, search everything and return the reply."""
    embedder = GivenVectors()
    memory = open_memory(request, state, embedder)
    seconds = sum(add_all(memory, embedder, namespace) for namespace in request.namespaces)
    keyword = keyword_note(memory, request.namespaces[0].user_id)
    answers = Answers()
    for namespace in request.namespaces:
        search_all(memory, embedder, namespace, request.top_k, answers)
    memory.close()
    return {
        "version": importlib.metadata.version("mem0ai"),
        "store": request.store,
        "ranks": answers.ranks,
        "add_seconds": seconds,
        "search_ms_p50": statistics.median(answers.milliseconds or [0.0]),
        "notes": notes_of(request, answers, keyword),
    }


def main(arguments: list[str]) -> None:
    """Answer the request file named first in the reply file named second."""
    if len(arguments) != 2:
        raise SystemExit("usage: mem0_search.py REQUEST.json REPLY.json")
    reply_path = Path(arguments[1]).resolve()
    has_spacy()
    request = load_request(Path(arguments[0]))
    request.workdir.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="mem0-", dir=request.workdir))
    isolate(state)
    reply_path.write_text(json.dumps(run(request, state)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
