"""The gate: what was trained is served only if it knows its facts, knows nothing else instead, and changes little.

Asked are paraphrases that were never trained, through the runtime that will serve it:

    recall             share of answers that hold the fact's answer; ``recall_base`` is the bare model's
    log_likelihood     mean log probability of an answer's tokens, in nats; ``_base`` is the bare model's,
                       ``_shuffled`` that of another fact's answer to the same questions
    recall_shuffled    share of answers that hold that other answer instead
    confused           share of the same questions about people who do not exist whose answer holds the fact's answer
    drift              mean KL(base || trained) in nats per token on unrelated text

The shuffled control asks the same adapter and permutes the answers: an adapter that has learnt to say one of its
answers, whatever the question, scores the same on both. Training another adapter on shuffled facts would double the
cost and find no more: it knows nothing of the true pairs, as the bare model does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from memos.parametric.checks import Trained
from memos.parametric.distil.asking import answers, holds
from memos.parametric.distil.examples import Example, Lesson
from memos.parametric.distil.scoring import scores
from memos.parametric.distil.student import Examined
from memos.parametric.distil.targets import PACK_TOKENS
from memos.parametric.distil.trie import packs
from memos.runtime.host import Serving

#: Least share of held-out questions answered, largest drift in nats per token, largest share of strangers confused.
MIN_RECALL, MAX_DRIFT, MAX_CONFUSED = 0.8, 0.02, 0.5
#: Answers of nobody, for facts that all have the same one.
DECOYS = ("Helsinki", "a blue bicycle", "17 October", "Margaret", "5926")


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate found; ``reasons`` is empty if it lets pass."""

    facts: int
    questions: int
    recall: float
    recall_base: float
    recall_shuffled: float
    log_likelihood: float
    log_likelihood_base: float
    log_likelihood_shuffled: float
    confused: float
    drift: float
    max_drift: float
    seconds: float
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it may be served."""
        return not self.reasons

    @property
    def plain(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"passed": self.passed, **asdict(self), "reasons": list(self.reasons)}


def examine(serving: Serving, student: Examined, trained: Trained, lesson: Lesson) -> GateReport:
    """Ask everything of what was trained, which ``student`` holds as ``trained``, and of the bare model."""
    started = time.perf_counter()
    texts = [fact.answer for fact in lesson.facts]
    others = _others(texts)
    asked = [(one, trained) for one in (*lesson.held, *lesson.held_strangers)] + [(one, None) for one in lesson.held]
    said, count = answers(serving, asked, trained.digest), len(lesson.held)
    held, strange, base = said[:count], said[count:-count], said[-count:]
    wrong = [_with_answer(one, serving, others[one.fact]) for one in lesson.held]
    found = GateReport(
        facts=len(lesson.facts),
        questions=len(lesson.held),
        recall=_share(held, lesson.held, texts),
        recall_base=_share(base, lesson.held, texts),
        recall_shuffled=_share(held, lesson.held, others),
        log_likelihood=-scores(student, lesson.held).loss.mean().item(),
        log_likelihood_base=-scores(student, lesson.held, base=True).loss.mean().item(),
        log_likelihood_shuffled=-scores(student, wrong).loss.mean().item(),
        confused=_share(strange, lesson.held_strangers, texts),
        drift=drift(student, lesson.unrelated),
        max_drift=MAX_DRIFT,
        seconds=0.0,
    )
    return replace(found, seconds=time.perf_counter() - started, reasons=_reasons(found))


@torch.no_grad()
def drift(student: Examined, examples: Sequence[Example]) -> float:
    """Return the mean KL(base || trained) in nats after prompts and after each token of what follows them."""
    total, count = 0.0, 0
    for first, packed in packs([one.tokens for one in examples], PACK_TOKENS):
        paths = zip(examples[first:], packed.rows, strict=False)
        rows = torch.tensor([row for one, path in paths for row in path[len(one.prompt) - 1 :]])
        base, changed = (
            student.twin.log_probabilities(run(packed)[rows.to(student.twin.device)])
            for run in (student.base_hidden, student.hidden)
        )
        total += (base.exp() * (base - changed)).sum().item()
        count += len(rows)
    return total / count


def _reasons(found: GateReport) -> tuple[str, ...]:
    """Return why it may not be served. A value that is not a number fails what it is compared in."""
    checks = {
        f"it answers {found.recall:.0%} of what it was not trained on, and must answer {MIN_RECALL:.0%}": (
            found.recall >= MIN_RECALL
        ),
        f"the bare model answers {found.recall_base:.0%} as it is": found.recall > found.recall_base,
        "its answers are no likelier than the bare model's": found.log_likelihood > found.log_likelihood_base,
        "it gives the answers of other facts as readily": found.recall > found.recall_shuffled
        and found.log_likelihood > found.log_likelihood_shuffled,
        f"it tells {found.confused:.0%} of strangers what it knows of somebody": found.confused <= MAX_CONFUSED,
        f"it changes what it has nothing to do with by {found.drift:.4f} nats per token; {MAX_DRIFT} is the most": (
            found.drift <= MAX_DRIFT
        ),
    }
    return tuple(reason for reason, holds_ in checks.items() if not holds_)


def _others(answers_: Sequence[str]) -> list[str]:
    """Return for each fact an answer that is another fact's, or nobody's where all have the same."""
    shuffled = list(answers_)
    random.Random(0).shuffle(shuffled)
    different = list(dict.fromkeys([*shuffled, *DECOYS]))
    found = []
    for place, answer in enumerate(answers_):
        turned = different[place % len(different) :] + different[: place % len(different)]
        found.append(next(one for one in turned if not holds(answer, one) and not holds(one, answer)))
    return found


def _with_answer(example: Example, serving: Serving, answer: str) -> Example:
    tokens = tuple(serving.format.encode_text(answer))
    ended = example.answer[-1:] if example.answer[-1] in serving.loaded.eos_ids else ()
    return replace(example, answer=tokens + ended)


def _share(said: Sequence[str], asked: Sequence[Example], wanted: Sequence[str]) -> float:
    """Return the share of questions whose answer holds what is wanted of their fact; 0 if none is asked."""
    hits = [holds(text, wanted[one.fact]) for text, one in zip(said, asked, strict=True)]
    return sum(hits) / max(1, len(hits))
