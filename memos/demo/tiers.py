"""One question asked twice of the local model: the memories computed anew, then reloaded from a KV file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memos.demo.material import FRIENDS
from memos_sdk import ChatReply, Memory

QUESTION = "What did Maya and Tom tell each other about Maya's cat?"
#: Memories that go into the KV file, and those of them that the prompt is about.
BUNDLE, CHOSEN = 24, 8
ANSWER_TOKENS = 40
#: Asked of each way in turn; the first pair is not counted, it warms what every later chat finds warm.
ROUNDS = 3


def tiers(memory: Memory) -> dict[str, Any]:
    """Promote some memories, ask with and without the file, and compare text and milliseconds."""
    hits = memory.recall(QUESTION, user_id=FRIENDS, top_k=BUNDLE).hits
    job = memory.wait(memory.promote([hit.id for hit in hits], to="activation", user_id=FRIENDS))
    if job.result is None:
        return {"error": job.error}
    recomputed, reloaded = both_ways(lambda reuse: _ask(memory, reuse=reuse))
    cube = memory.get(job.result["cube_id"])
    return {
        "question": QUESTION,
        "cube": {"id": cube.id, **cube.metadata, "memories": len(cube.provenance.parents)},
        "recompute": told(recomputed),
        "reload": told(reloaded),
        "identical": len({reply.text for reply in (*recomputed, *reloaded)}) == 1,
    }


def both_ways(ask: Callable[[bool], ChatReply]) -> tuple[list[ChatReply], list[ChatReply]]:
    """Return the replies without KV files and with them, asked for in turn."""
    rounds = [(ask(False), ask(True)) for _ in range(ROUNDS)][1:]  # there is but one flag
    return [computed for computed, _ in rounds], [reused for _, reused in rounds]


def _ask(memory: Memory, *, reuse: bool) -> ChatReply:
    messages: Sequence[Mapping[str, str]] = [{"role": "user", "content": QUESTION}]
    return memory.chat(messages, user_id=FRIENDS, top_k=CHOSEN, max_tokens=ANSWER_TOKENS, reuse=reuse)


def told(replies: Sequence[ChatReply]) -> dict[str, Any]:
    """Return the reply whose first token came in the median time."""
    middle = sorted(replies, key=lambda reply: reply.usage.milliseconds["first_token"])[len(replies) // 2]
    told = middle.model_dump(mode="json")
    return {"text": told["text"], "tiers": told["tiers"], **told["usage"]}
