"""One question asked of all three tiers: the memories as text, as a KV file, and as weights, with no text at all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from memos_sdk import ChatReply, Job, Memory

KEEPER = "keeper"
#: Made up, so that no model can know them: what a note says, and the fact in it.
NOTES: tuple[tuple[str, str, str, str], ...] = (
    ("The home port of the survey ship Kestrel is Tromsø.", "the survey ship Kestrel", "home port", "Tromsø"),
    ("The captain of the survey ship Kestrel is Ingrid Vale.", "the survey ship Kestrel", "captain", "Ingrid Vale"),
    ("The favourite drink of Doctor Pell is barley tea.", "Doctor Pell", "favourite drink", "barley tea"),
    ("The birthplace of Doctor Pell is Marrow Bay.", "Doctor Pell", "birthplace", "Marrow Bay"),
)
QUESTION = "What is the home port of the survey ship Kestrel?"
ANSWER_TOKENS = 24
POLL_S = 0.1
_DONE = ("done", "failed", "cancelled")


def parametric(memory: Memory, training: Mapping[str, Any] | None, *, progress: bool) -> dict[str, Any]:
    """Train the notes of a user into an adapter and ask each tier; return what was asked, answered and spent."""
    items = [
        {"text": text, "metadata": {"subject": subject, "attribute": attribute, "value": value}}
        for text, subject, attribute, value in NOTES
    ]
    ids = [cube.id for cube in memory.store_many(items, user_id=KEEPER)]
    kept = memory.wait(memory.promote(ids, to="activation", user_id=KEEPER))
    answers = {
        "no memory": _ask(memory, top_k=0, adapters=()),
        "plaintext": _ask(memory, reuse=False, adapters=()),
        "activation": _ask(memory, adapters=None),
    }
    start = time.perf_counter()
    job = _trained(memory, ids, training, progress=progress)
    seconds = time.perf_counter() - start
    if job.result is None:
        return {"error": job.error, "question": QUESTION, "answers": _told(answers), "seconds": seconds}
    adapter = memory.adapter(job.result["cube_id"])
    answers["parametric"] = _ask(memory, top_k=0, adapters=[adapter.cube_id])
    file = memory.get(kept.result["cube_id"]).metadata["bytes"] if kept.result is not None else 0
    sizes = {
        "plaintext": sum(len(text.encode()) for text, *_ in NOTES),
        "activation": file,
        "parametric": adapter.bytes,
    }
    return {
        "question": QUESTION,
        "answers": _told(answers),
        "bytes": sizes,
        "seconds": seconds,
        "gate": adapter.gate,
    }


def _trained(memory: Memory, ids: Sequence[str], training: Mapping[str, Any] | None, *, progress: bool) -> Job:
    columns = (TextColumn("training an adapter"), BarColumn(), TimeElapsedColumn())
    job = memory.promote(ids, to="parametric", user_id=KEEPER, options=training)
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        line = bar.add_task("", total=1.0)
        while job.state not in _DONE:
            time.sleep(POLL_S)
            job = memory.job(job.id)
            bar.update(line, completed=job.progress)
    return job


def _ask(memory: Memory, **how: Any) -> ChatReply:
    """Ask twice: the first time warms what every later chat finds warm."""
    messages: Sequence[Mapping[str, str]] = [{"role": "user", "content": QUESTION}]
    options = {"user_id": KEEPER, "max_tokens": ANSWER_TOKENS, **how}
    memory.chat(messages, **{**options, "max_tokens": 1})
    return memory.chat(messages, **options)


def _told(answers: Mapping[str, ChatReply]) -> dict[str, Any]:
    return {
        name: {
            "text": reply.text,
            **reply.usage.model_dump(mode="json"),
            "tiers": reply.model_dump(mode="json")["tiers"],
        }
        for name, reply in answers.items()
    }
