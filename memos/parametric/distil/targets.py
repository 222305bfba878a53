"""What a teacher thinks, kept small: the likeliest tokens of each row and the probability of all others together.

The teacher is the bare model: on what must not change, as it is; for context distillation, with the note in its prompt.
Its logits are computed once, before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memos.parametric.distil.examples import Example
from memos.parametric.distil.student import Student
from memos.parametric.distil.trie import packs

#: Tokens of one forward of a teacher or of an evaluation, before what is shared is merged.
PACK_TOKENS = 1024
_LEAST = 1e-8


@dataclass(frozen=True, slots=True)
class Targets:
    """Rows of a teacher: token ids ``[n, k]``, their log probabilities, and that of the rest ``[n]``, float32."""

    ids: torch.Tensor
    likely: torch.Tensor
    rest: torch.Tensor

    @classmethod
    def of(cls, log_probabilities: torch.Tensor, top_k: int) -> Targets:
        """Keep the ``top_k`` likeliest of rows ``[n, vocabulary]``."""
        likely, ids = log_probabilities.topk(min(top_k, log_probabilities.shape[1]), dim=1)
        return cls(ids, likely, _rest(likely))

    def divergence(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Return KL(teacher || student) of each row, in nats, the rest taken as one token: at most the true one."""
        likely = log_probabilities.gather(1, self.ids)
        parts = self.likely.exp() * (self.likely - likely)
        return parts.sum(1) + self.rest.exp() * (self.rest - _rest(likely))


def joined(targets: Sequence[Targets]) -> Targets:
    """Return the rows of several."""
    parts = [(one.ids, one.likely, one.rest) for one in targets]
    ids, likely, rest = (torch.cat(column) for column in zip(*parts, strict=True))
    return Targets(ids, likely, rest)


@torch.no_grad()
def preserved_targets(student: Student, examples: Sequence[Example], top_k: int) -> list[Targets]:
    """Return what the bare model says after each prompt, and after each token of what follows it."""
    rows = [range(len(one.prompt) - 1, len(one.tokens)) for one in examples]
    return _targets(student, [one.tokens for one in examples], rows, top_k)


@torch.no_grad()
def taught_targets(student: Student, examples: Sequence[Example], top_k: int) -> list[Targets]:
    """Return what the bare model says where the answer's tokens come, with the note in its prompt."""
    sequences = [one.taught + one.answer for one in examples]
    rows = [range(len(one.taught) - 1, len(whole) - 1) for one, whole in zip(examples, sequences, strict=True)]
    return _targets(student, sequences, rows, top_k)


def _targets(
    student: Student, sequences: Sequence[tuple[int, ...]], rows: Sequence[range], top_k: int
) -> list[Targets]:
    found = []
    for first, packed in packs(sequences, PACK_TOKENS):
        hidden = student.base_hidden(packed)
        for place, path in enumerate(packed.rows, first):
            wanted = torch.tensor([path[row] for row in rows[place]], device=hidden.device)
            found.append(Targets.of(student.twin.log_probabilities(hidden[wanted]), top_k))
    return found


def _rest(likely: torch.Tensor) -> torch.Tensor:
    """Return the log probability of all tokens but these."""
    return torch.log((1 - likely.exp().sum(1)).clamp(min=_LEAST))
