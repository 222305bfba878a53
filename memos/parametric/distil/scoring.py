"""How likely the answers are, with the LM head evaluated where answers are and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memos.parametric.distil.examples import Example
from memos.parametric.distil.student import Examined
from memos.parametric.distil.targets import PACK_TOKENS
from memos.parametric.distil.trie import Packed, packs


@dataclass(frozen=True, slots=True)
class AnswerRows:
    """Where answers are: rows of the pack, the tokens that follow them, and whose they are, int64 ``[n]`` each."""

    rows: torch.Tensor
    tokens: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], packed: Packed) -> AnswerRows:
        """Find the answers of the first sequences of a pack, which hold all tokens of the examples but the last."""
        rows: list[int] = []
        tokens: list[int] = []
        owners: list[int] = []
        for owner, (example, path) in enumerate(zip(examples, packed.rows, strict=False)):
            rows += path[len(example.prompt) - 1 : len(example.tokens) - 1]
            tokens += example.answer
            owners += [owner] * len(example.answer)
        return cls(torch.tensor(rows), torch.tensor(tokens), torch.tensor(owners))

    def per_example(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean ``[examples]`` of values ``[n]`` over each example's own tokens."""
        owners = self.owners.to(values.device)
        count = int(self.owners[-1]) + 1
        return values.new_zeros(count).index_add(0, owners, values) / torch.bincount(owners, minlength=count)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each example: ``loss`` in nats per token, and ``right``, whether greedy decoding would say its answer."""

    loss: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, where: AnswerRows, log_probabilities: torch.Tensor) -> Scores:
        """Score rows ``[n, vocabulary]`` in the order of ``where``."""
        tokens = where.tokens.to(log_probabilities.device)
        loss = where.per_example(-log_probabilities.gather(1, tokens[:, None])[:, 0])
        hits = (log_probabilities.argmax(1) == tokens).float()
        return cls(loss, (where.per_example(hits) == 1).float())


@torch.no_grad()
def scores(student: Examined, examples: Sequence[Example], *, base: bool = False) -> Scores:
    """Return the scores of any number of examples, of the student or of the bare model."""
    run = student.base_hidden if base else student.hidden
    found = []
    for first, packed in packs([one.tokens[:-1] for one in examples], PACK_TOKENS):
        where = AnswerRows.of(examples[first : first + len(packed.rows)], packed)
        hidden = run(packed)
        found.append(Scores.of(where, student.twin.log_probabilities(hidden[where.rows.to(hidden.device)])))
    return Scores(torch.cat([one.loss for one in found]), torch.cat([one.right for one in found]))
