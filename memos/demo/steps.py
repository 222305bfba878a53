"""Storing, asking and narrowing down; every step returns plain data."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from memos.demo.material import FRIENDS, Batch, Question, reference
from memos.embedding.base import Embedder
from memos.plaintext.analysis import terms
from memos_sdk import Memory
from memos_sdk.types import Hit

TOP = 10
BUDGET = 120
_WORKED_EXAMPLE = "What is Maya's cat called now?"
_SLICE = 16
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def store(memory: Memory, batches: Sequence[Batch], *, progress: bool) -> dict[str, Any]:
    """Store every batch, with a progress bar on stderr if wished."""
    columns = (TextColumn("Storing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    count = sum(len(batch.items) for batch in batches)
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("store", total=count)
        for batch in batches:
            for start in range(0, len(batch.items), _SLICE):  # a bar that moves
                items = batch.items[start : start + _SLICE]
                memory.store_many(items, user_id=batch.user_id, run_id=batch.run_id)
                bar.advance(task, len(items))
    return {"memories": count, "batches": len(batches)}


# ---------------------------------------------------------------- asking


def ask(memory: Memory, question: Question) -> dict[str, Any]:
    """Ask one question; say what came first and where the evidence stood."""
    start = time.perf_counter()
    result = memory.recall(question.text, user_id=question.user_id, top_k=TOP, explain=True)
    taken = (time.perf_counter() - start) * 1e3
    ranks = {reference(hit.metadata): rank for rank, hit in enumerate(result.hits, start=1)}
    evidence = {place: ranks.get(place) for place in question.evidence}
    superseded = {place: ranks.get(place) for place in question.superseded}
    return {
        "user_id": question.user_id,
        "question": question.text,
        "answer": question.answer,
        "best": seen(result.hits[0], question.text),
        "evidence": evidence,
        "superseded": superseded,
        "newest_first": _newest_first(evidence, superseded) if superseded else None,
        "milliseconds": taken,
        "embedding_milliseconds": result.timings["embed"],
    }


def score(answers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the questions and the pieces of evidence found, and the changed facts told the right way round."""
    ranks = [rank for answer in answers for rank in answer["evidence"].values()]
    changed = [answer["newest_first"] for answer in answers if answer["superseded"]]
    return {
        "questions": len(answers),
        "found": sum(any(answer["evidence"].values()) for answer in answers),
        "evidence": len(ranks),
        "evidence_found": sum(rank is not None for rank in ranks),
        "changed": len(changed),
        "newest_first": changed.count(True),
    }


def seen(hit: Hit, question: str) -> dict[str, Any]:
    """Return what a reader wants to know of a hit; ``excerpt`` begins where it speaks of the question."""
    metadata = hit.metadata
    said = "speaker" in metadata
    text = hit.text.removeprefix(f"{metadata['speaker']}: ") if said else hit.text
    return {
        "id": hit.id,
        "reference": reference(metadata),
        "when": f"{hit.event_time:%Y-%m-%d}" if said else f"chapter {metadata['chapter']}",
        "speaker": metadata.get("speaker"),
        "text": text,
        "excerpt": excerpt(text, question),
        "score": hit.score,
    }


def excerpt(text: str, question: str) -> str:
    """Return ``text`` from the first of its sentences that share most words with the question."""
    wanted = set(terms(question))
    sentences = _SENTENCE_END.split(text)
    shared = [len(wanted.intersection(terms(sentence))) for sentence in sentences]
    first = shared.index(max(shared))
    return ("… " if first else "") + " ".join(sentences[first:])


def _newest_first(evidence: Mapping[str, int | None], superseded: Mapping[str, int | None]) -> bool | None:
    """Return whether the fact as it stands is above the fact as it was, ``None`` where neither was found."""
    now, before = (
        min((rank for rank in ranks.values() if rank is not None), default=TOP + 1) for ranks in (evidence, superseded)
    )
    return None if now == before else now < before


# ---------------------------------------------------------------- narrowing down


def explain(memory: Memory) -> dict[str, Any]:
    """Take the scores of the three best hits apart."""
    result = memory.recall(_WORKED_EXAMPLE, user_id=FRIENDS, top_k=3, explain=True)
    hits = [{**seen(hit, _WORKED_EXAMPLE), "parts": (hit.why or {})["parts"]} for hit in result.hits]
    return {"question": _WORKED_EXAMPLE, "hits": hits, "timings": result.timings}


def narrow(memory: Memory) -> list[dict[str, Any]]:
    """Ask within a filter, and ask what held at an earlier time."""
    filters = {"metadata.speaker": "Maya", "event_time": {"$gte": "2025-06-01"}}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("Is there any news about work?", {}),
        ("Is there any news about work?", {"filters": filters}),
        (_WORKED_EXAMPLE, {}),
        (_WORKED_EXAMPLE, {"as_of": "2025-03-01"}),
    ]
    return [
        {
            "question": question,
            "options": options,
            "hits": [seen(hit, question) for hit in memory.recall(question, user_id=FRIENDS, top_k=2, **options).hits],
        }
        for question, options in cases
    ]


def budget(memory: Memory, embedder: Embedder) -> dict[str, Any]:
    """Fetch a block of text for a prompt that may cost :data:`BUDGET` tokens."""
    question = "What should Maya know before she cooks for Tom, is he allergic to something?"
    result = memory.recall(question, user_id=FRIENDS, top_k=TOP, max_tokens=BUDGET)
    return {
        "question": question,
        "max_tokens": BUDGET,
        "tokens": embedder.count_tokens(result.context),
        "context": result.context,
    }
