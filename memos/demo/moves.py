"""The scheduler at work: some questions come up again and again, and it moves what they need."""

from __future__ import annotations

from typing import Any

from memos.demo.material import FRIENDS
from memos_sdk import Memory

#: What somebody is asked all week, and how often.
QUESTIONS = (
    "Which trips did Maya and Tom talk about?",
    "What did Tom say about his work?",
)
TIMES, MEMORIES = 5, 8


def moves(memory: Memory) -> dict[str, Any]:
    """Use some memories a lot, let the scheduler move, take the last move back; return what it did and why."""
    for _ in range(TIMES):
        for question in QUESTIONS:
            memory.recall(question, user_id=FRIENDS, top_k=MEMORIES)
    planned = memory.plan(user_id=FRIENDS)
    made = memory.plan(user_id=FRIENDS, dry_run=False)
    for move in made:
        if move.job_id is not None:
            memory.wait(move.job_id)
    undone = memory.undo(made[-1].id, user_id=FRIENDS) if made and made[-1].id else []
    return {
        "questions": list(QUESTIONS),
        "times": TIMES,
        "as_planned": [move.reason for move in planned] == [move.reason for move in made],
        "moves": [move.model_dump(mode="json") for move in memory.moves(user_id=FRIENDS)],
        "undone": len(undone),
    }
