"""The PyPI package a-mem, with a function for a model and given vectors: run by notes.py in its own environment.

    python amem_notes.py REQUEST.json REPLY.json

REQUEST: {"sizes": [n, ...], "texts": [...], "vectors_npy": FILE, "probes": [...], "conversations": {name: {...}}, ...}
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

#: It builds its whole index anew every hundred notes: 10,000 were not there after 55 minutes.
PATIENCE_S = 240


class Given:
    """An embedding function for Chroma: vectors by text; what a-mem adds to a text has the vector of the text."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._known = known

    def __call__(self, input: list[str]) -> list[Any]:  # noqa: A002 (Chroma's name)
        return [self._known[text.split(" context: ")[0].split(" keywords: ")[0]] for text in input]

    def embed_query(self, input: list[str]) -> list[Any]:  # noqa: A002
        return self(input)

    @staticmethod
    def name() -> str:
        return "default"

    def get_config(self) -> dict[str, Any]:
        return {}


class Stub:
    """The same answers as the endpoint of notes.py: keywords by length, links to the nearest neighbour."""

    def __init__(self, link: bool) -> None:
        self.calls = 0
        self._link = link

    def get_completion(self, prompt: str, response_format: Any = None, **_: Any) -> str:
        self.calls += 1
        if "Content for analysis:" in prompt:
            words = re.findall(r"[A-Za-z]{4,}", prompt.split("Content for analysis:")[1])
            chosen = sorted(dict.fromkeys(words), key=lambda word: (-len(word), word))[:5]
            return json.dumps({"keywords": chosen, "context": "A note.", "tags": ["note"]})
        ids = re.findall(r"memory_id:([0-9a-f-]{36})", prompt)
        if not self._link or not ids:
            return json.dumps(
                {
                    "should_evolve": False,
                    "actions": [],
                    "suggested_connections": [],
                    "tags_to_update": [],
                    "new_context_neighborhood": [],
                    "new_tags_neighborhood": [],
                }
            )
        contexts = ["EVOLVED", *["A note."] * (len(ids) - 1)]
        return json.dumps(
            {
                "should_evolve": True,
                "actions": ["strengthen", "update_neighbor"],
                "suggested_connections": ids[:1],
                "tags_to_update": ["note"],
                "new_context_neighborhood": contexts,
                "new_tags_neighborhood": [["note"]] * len(ids),
            }
        )


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    known = dict(zip(request["texts"], np.load(request["vectors_npy"]), strict=True))
    reply = {
        "writes": [write(request, known, size) for size in request["sizes"]],
        "checks": checks(request, known),
        "ranks": {name: ranks(request, name, one) for name, one in request["conversations"].items()},
    }
    Path(sys.argv[2]).write_text(json.dumps(reply))


def system(request: dict[str, Any], known: dict[str, Any], folder: str, stub: Stub) -> Any:
    """Return an empty memory system with given vectors and the stub for a model."""
    import agentic_memory.memory_system as made
    import agentic_memory.retrievers as retrievers

    retrievers.SentenceTransformerEmbeddingFunction = lambda model_name: Given(known)
    opened = made.AgenticMemorySystem(api_key="none", storage_path=str(Path(request["workdir"]) / folder))
    opened.llm_controller.llm = stub
    return opened


def write(request: dict[str, Any], known: dict[str, Any], size: int) -> dict[str, Any]:
    """Write ``size`` notes, or as many as :data:`PATIENCE_S` allows; time the last hundred."""
    stub = Stub(link=True)
    memory = system(request, known, f"write-{size}", stub)
    texts = request["texts"][:size]
    end, there = time.monotonic() + PATIENCE_S, 0
    while there < size - 100 and time.monotonic() < end:
        memory.add_note(texts[there])
        there += 1
    calls, start = stub.calls, time.perf_counter()
    for text in texts[there : there + 100]:
        memory.add_note(text)
    taken = time.perf_counter() - start
    return {"size": there + 100, "ms_per_note": taken * 10, "calls_per_note": (stub.calls - calls) / 100}


def checks(request: dict[str, Any], known: dict[str, Any]) -> dict[str, bool]:
    """Whether links and evolution go where the model says, and what a deletion leaves."""
    memory = system(request, known, "checks", Stub(link=True))
    ids = [memory.add_note(text) for text in request["probes"]]
    last = memory.read(ids[-1])
    target = last.links[0] if last.links else None
    nearest = ids[request["nearest"]]
    evolved = memory.read(nearest)
    back = memory.read(target).links if target and memory.read(target) else []
    found = {
        "link_resolves": bool(target and memory.read(target)),
        "link_goes_to_the_nearest": target == nearest,
        "link_goes_both_ways": ids[-1] in back,
        "the_nearest_evolved": bool(evolved) and evolved.context == "EVOLVED",
        "no_link_dangles_after_delete": True,
    }
    if target:
        memory.delete(target)
        found["no_link_dangles_after_delete"] = target not in memory.read(ids[-1]).links
    number = memory.add_note("2024")
    memory.cache.clear()
    found["text_comes_back_as_text"] = memory.read(number).content == "2024"
    return found


def ranks(request: dict[str, Any], name: str, conversation: dict[str, Any]) -> list[list[int]]:
    """Return the places of the notes found for each question."""
    texts, questions = conversation["texts"], conversation["questions"]
    known = {
        **dict(zip(texts, np.load(conversation["texts_npy"]), strict=True)),
        **dict(zip(questions, np.load(conversation["questions_npy"]), strict=True)),
    }
    memory = system(request, known, f"recall-{name}", Stub(link=False))
    place = {memory.add_note(text): index for index, text in enumerate(texts)}
    depth = request["top_k"]
    return [[place[hit["id"]] for hit in memory.search(question, k=depth)] for question in questions]


if __name__ == "__main__":
    main()
