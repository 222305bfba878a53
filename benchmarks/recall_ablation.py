"""What does each part of the recall score contribute, and how steady is it? LoCoMo R@10, categories 1-4.

Variants run through the whole product with one constant of `memos.plaintext.ranking` changed, or with other material:

  without ...  one part switched off
  ... at ...   one constant at an end of its stated plateau
  no sessions  turns stored without `run_id`
  one user     all conversations in one namespace
  typos        two letters swapped or one dropped in one word of eight, names aside, in the stored texts

`held_out` is what honest choosing would have got: for each conversation, the setting that is best on the others.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from embedders import RememberingEmbedder
from harness import Report, parser, table
from recall_quality import Conversation, Ranks, locomo, shares

from memos.plaintext import ranking
from memos_sdk import Memory

OFF = {
    "without neighbours": {"NEAR": 0.0, "FAR": 0.0},
    "without lexical": {"LEXICAL": 0.0},
    "without speaker": {"SPEAKER": 0.0},
    "without time": {"TIME": 0.0},
    "without asking": {"ASKING": 0.0},
}
PLATEAU = {
    "LEXICAL": (0.45, 0.7),
    "SPEAKER": (0.15, 0.3),
    "TIME": (0.1, 0.5),
    "ASKING": (0.05, 0.15),
    "NEAR": (0.5, 0.8),
    "SHORT": (10.0, 20.0),
    "CONTEXT": (0.3, 0.7),
}
Change = Callable[[Conversation], Conversation]


def ranks(
    conversations: Sequence[Conversation], embedder: RememberingEmbedder, *, one_user: bool = False
) -> list[Ranks]:
    """Store and ask everything; a hit from another conversation counts as -1."""
    place: dict[str, tuple[str, int]] = {}
    result = []
    with tempfile.TemporaryDirectory() as home, Memory(path=home, embedder=embedder) as memory:
        for conversation in conversations:
            turns = [
                {**turn, "run_id": turn["run_id"] and f"{conversation.name} {turn['run_id']}"}
                for turn in conversation.turns
            ]
            cubes = memory.store_many(turns, user_id="all" if one_user else conversation.name)
            place.update({cube.id: (conversation.name, index) for index, cube in enumerate(cubes)})
        for conversation in conversations:
            user = "all" if one_user else conversation.name
            found = [memory.recall(q.text, user_id=user, top_k=10).hits for q in conversation.questions]
            own = conversation.name
            result.append([[place[hit.id][1] if place[hit.id][0] == own else -1 for hit in hits] for hits in found])
    return result


def with_constants(changes: dict[str, float], run: Callable[[], list[Ranks]]) -> list[Ranks]:
    """Run with some constants of the ranking changed."""
    before = {name: getattr(ranking, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(ranking, name, value)
        return run()
    finally:
        for name, value in before.items():
            setattr(ranking, name, value)


def without_sessions(conversation: Conversation) -> Conversation:
    """Drop every `run_id`."""
    return replace(conversation, turns=[{**turn, "run_id": None} for turn in conversation.turns])


def with_typos(conversation: Conversation) -> Conversation:
    """Damage one word of eight, the speaker's name aside."""
    dice = random.Random(4)
    turns = [{**turn, "text": " ".join(_damaged(turn["text"].split(), dice))} for turn in conversation.turns]
    return replace(conversation, turns=turns)


def _damaged(words: list[str], dice: random.Random) -> list[str]:
    return [words[0], *(_typo(word, dice) if dice.random() < 1 / 8 and len(word) > 3 else word for word in words[1:])]


def _typo(word: str, dice: random.Random) -> str:
    place = dice.randrange(1, len(word) - 1)
    if dice.random() < 0.5:
        return word[:place] + word[place + 1 :]
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def by_conversation(conversations: Sequence[Conversation], found: list[Ranks]) -> list[list[float]]:
    """Return R@10 of every question, conversation by conversation."""
    pairs = zip(conversations, found, strict=True)
    return [[share for _, share in shares([one], [ranking_], 10)] for one, ranking_ in pairs]


def held_out(settings: dict[str, list[list[float]]]) -> float:
    """Return the pooled R@10 when each conversation is scored with the setting that is best on the others."""
    count = len(next(iter(settings.values())))
    pooled: list[float] = []
    for left_out in range(count):
        others = [i for i in range(count) if i != left_out]
        best = max(settings.values(), key=lambda scores: np.mean([s for i in others for s in scores[i]]))
        pooled += best[left_out]
    return float(np.mean(pooled))


def add(report: Report, variant: str, conversations: Sequence[Conversation], found: list[Ranks]) -> list[list[float]]:
    """Add a row and return the scores behind it."""
    scores = by_conversation(conversations, found)
    hops = [share for kind, share in shares(conversations, found, 10) if kind == "multi-hop"]
    row = {"variant": variant, "R@10": float(np.mean(np.concatenate(scores))), "multi-hop": float(np.mean(hops))}
    report.rows.append(row | {c.name: float(np.mean(s)) for c, s in zip(conversations, scores, strict=True)})
    print(variant, row["R@10"], flush=True)
    return scores


def main() -> int:
    """Run every variant."""
    arguments = parser(__doc__, data=True).parse_args()
    report = Report("recall_ablation", arguments)
    conversations = locomo(Path(arguments.data or "no-data"))[: 2 if arguments.quick else None]
    if not conversations:
        report.missing("held_out", "no data; give --data DIR or set MEMOS_EVAL_DATA")
        report.finish()
        return 0
    embedder = RememberingEmbedder()
    settings = {"as is": add(report, "as is", conversations, ranks(conversations, embedder))}
    for name, changes in OFF.items():
        add(report, name, conversations, with_constants(changes, lambda: ranks(conversations, embedder)))
    for constant, ends in PLATEAU.items():
        for end in ends:
            variant = f"{constant} at {end}"
            found = with_constants({constant: end}, lambda: ranks(conversations, embedder))
            settings[variant] = add(report, variant, conversations, found)
    changes: dict[str, Change] = {"no sessions": without_sessions, "typos": with_typos}
    for name, change in changes.items():
        add(report, name, conversations, ranks([change(one) for one in conversations], embedder))
    add(report, "one user", conversations, ranks(conversations, embedder, one_user=True))
    table(report.rows)
    means = [float(np.mean(np.concatenate(scores))) for scores in settings.values()]
    report.figures |= {"held_out": held_out(settings), "plateau_low": min(means), "plateau_high": max(means)}
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
