"""One prompt made of several memories' caches: each was computed alone, and hardly anything is computed again."""

from __future__ import annotations

from typing import Any

from memos.demo.material import READER
from memos.demo.tiers import both_ways, told
from memos_sdk import ChatReply, Memory

QUESTION = "What prize did Alice herself get in the Caucus-race?"
#: KV files, and the memories in each of them.
FILES, EACH = 3, 3
ANSWER_TOKENS = 24


def composed(memory: Memory) -> dict[str, Any]:
    """Put what recall finds into several files, and ask with and without them."""
    ids = [hit.id for hit in memory.recall(QUESTION, user_id=READER, top_k=FILES * EACH).hits]
    for first in range(0, len(ids), EACH):
        job = memory.wait(memory.promote(ids[first : first + EACH], to="activation", user_id=READER))
        if job.result is None:
            return {"error": job.error}
    computed, put_together = both_ways(lambda reuse: _ask(memory, reuse=reuse))
    return {"question": QUESTION, "computed": told(computed), "composed": told(put_together)}


def _ask(memory: Memory, *, reuse: bool) -> ChatReply:
    messages = [{"role": "user", "content": QUESTION}]
    return memory.chat(messages, user_id=READER, top_k=FILES * EACH, max_tokens=ANSWER_TOKENS, reuse=reuse)
