"""Training: answer tokens are learnt, or a teacher's thoughts about them, and what must not change is held on to.

    loss = (1 - teacher) * mean_e nll(answer_e) + teacher * mean_e KL(base with the note || student)
           + preserve * mean KL(base || student) on generic text and on questions about strangers

Equal seeds give equal weights on one machine and thread count, whether training was interrupted or not: the order of
the examples follows from the seed and the epoch, nothing else is random, and a checkpoint holds all that changes.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

import torch

from memos.errors import TrainingRefused
from memos.parametric.distil.checkpoint import Checkpoint, Progress
from memos.parametric.distil.examples import Example, Lesson
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.scoring import AnswerRows, Scores
from memos.parametric.distil.student import Student
from memos.parametric.distil.targets import Targets, joined, preserved_targets, taught_targets
from memos.parametric.distil.trie import pack
from memos.schedule.executor import Interrupted, Report

#: Seconds between checkpoints.
SAVE_S = 15.0
#: How much of the learning rate is gone at the end of the last epoch.
FALL = 0.9


#: An example, and what the bare model says about it.
_Kept = tuple[Example, Targets]


class Trainer:
    """One training."""

    def __init__(self, student: Student, lesson: Lesson, recipe: Recipe, checkpoint: Checkpoint | None = None) -> None:
        self._student = student
        self._lesson = lesson
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._parameters = list(student.parameters.values())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=student.rate, weight_decay=0.0)
        self._places = _by_fact(lesson.trained)
        self._epoch_size = sum(min(recipe.ways, len(places)) for places in self._places)
        self._epoch_steps = math.ceil(self._epoch_size / recipe.batch)
        self._steps = recipe.epochs * self._epoch_steps
        #: What must not change, and how much of each there is in a step.
        self._kept = {
            "preserved": (lesson.preserved, recipe.preserved),
            "strangers": (lesson.strangers, recipe.strangers),
        }
        self._base: dict[str, list[Targets]] = {}
        self._taught: list[Targets] = []
        self._saved = 0.0

    def run(self, report: Report) -> Progress:
        """Train to the end, from a checkpoint if there is one.

        ``report`` is told the share of the longest training that is done. What it raises ends the training; an
        :class:`Interrupted` leaves a checkpoint. Raises :class:`TrainingRefused` when the loss is not finite.
        """
        progress = self._begin()
        self._saved = time.monotonic()
        while progress.step < self._steps and not self._over(progress):
            self._step(progress)
            if progress.step % self._epoch_steps == 0:
                self._close_epoch(progress)
            self._tell(progress, report)
        return progress

    # ------------------------------------------------------------ beginning and ending

    def _begin(self) -> Progress:
        progress = self._checkpoint and self._checkpoint.load(self._student.parameters, self._optimiser)
        if not progress:
            self._student.begin(self._lesson)
        for name, (examples, count) in self._kept.items():
            if self._recipe.preserve and count and examples:
                self._base[name] = preserved_targets(self._student, examples, self._recipe.top_k)
        if self._recipe.teacher:
            self._taught = taught_targets(self._student, self._lesson.trained, self._recipe.top_k)
        return progress or Progress()

    def _close_epoch(self, progress: Progress) -> None:
        progress.losses.append(progress.loss_sum / self._epoch_size)
        progress.right.append(progress.right_sum / self._epoch_size)
        progress.loss_sum = progress.right_sum = 0.0

    def _over(self, progress: Progress) -> bool:
        """Whether all is learnt, or no more is being learnt. Only an epoch's end changes it."""
        losses, patience = progress.losses, self._recipe.patience
        if not losses:
            return False
        learnt = losses[-1] < self._recipe.stop_loss and progress.right[-1] == 1.0
        return learnt or (len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience]))

    def _tell(self, progress: Progress, report: Report) -> None:
        """Save now and then, and report."""
        if self._checkpoint is None:
            report(progress.step / self._steps)
            return
        if time.monotonic() - self._saved >= SAVE_S:
            self._save(self._checkpoint, progress)
        try:
            report(progress.step / self._steps)
        except Interrupted:
            self._save(self._checkpoint, progress)
            raise

    def _save(self, checkpoint: Checkpoint, progress: Progress) -> None:
        checkpoint.save(self._student.parameters, self._optimiser, progress)
        self._saved = time.monotonic()

    # ------------------------------------------------------------ a step

    def _step(self, progress: Progress) -> None:
        chosen = self._chosen(progress.step)
        loss, scores = self._loss(chosen, self._held_on_to(progress.step))
        if not math.isfinite(loss.item()):
            raise TrainingRefused(
                "the training came to values that are not finite: choose a smaller rate, or run the model in float32"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._student.rate * (1 - FALL * progress.step / self._steps)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        progress.step += 1
        progress.loss_sum += scores.loss.sum().item()
        progress.right_sum += scores.right.sum().item()

    def _loss(self, chosen: Sequence[int], kept: Sequence[_Kept]) -> tuple[torch.Tensor, Scores]:
        examples = [self._lesson.trained[place] for place in chosen]
        preserved = [one for one, _ in kept]
        packed = pack([one.tokens[:-1] for one in examples] + [one.tokens for one in preserved])
        where = AnswerRows.of(examples, packed)
        behind = _after_prompts(preserved, packed.rows[len(examples) :])
        hidden = self._student.hidden(packed)
        wanted = torch.cat([where.rows, behind]).to(hidden.device)
        log_probabilities = self._student.twin.log_probabilities(hidden[wanted])
        answers, others = log_probabilities[: len(where.rows)], log_probabilities[len(where.rows) :]
        scores = Scores.of(where, answers)
        loss = (1 - self._recipe.teacher) * scores.loss.mean()
        if self._taught:
            taught = joined([self._taught[place] for place in chosen]).divergence(answers)
            loss = loss + self._recipe.teacher * where.per_example(taught).mean()
        if kept:
            drift = joined([targets for _, targets in kept]).divergence(others)
            each = drift.split([len(targets.rest) for _, targets in kept])
            loss = loss + self._recipe.preserve * torch.stack([one.mean() for one in each]).mean()
        return loss, scores

    def _chosen(self, step: int) -> list[int]:
        """Return the places of a step's examples: every epoch asks about each fact in other ways, in its own order."""
        epoch, place = divmod(step, self._epoch_steps)
        asked = []
        for places in self._places:
            count = min(self._recipe.ways, len(places))
            asked += [places[(epoch * count + number) % len(places)] for number in range(count)]
        order = _order(f"trained {self._recipe.seed} {epoch}", len(asked))
        return [asked[one] for one in order[place * self._recipe.batch :][: self._recipe.batch]]

    def _held_on_to(self, step: int) -> list[_Kept]:
        """Return what a step must not change: all of a kind have their turn before any has another."""
        found: list[_Kept] = []
        for name, base in self._base.items():
            examples, count = self._kept[name]
            numbers = range(step * count, (step + 1) * count)
            turns = [divmod(number, len(examples)) for number in numbers]
            places = [_order(f"{name} {self._recipe.seed} {turn}", len(examples))[place] for turn, place in turns]
            found += [(examples[place], base[place]) for place in dict.fromkeys(places)]
        return found


def _by_fact(examples: Sequence[Example]) -> list[list[int]]:
    """Return the places of each fact's examples."""
    found: dict[int, list[int]] = {}
    for place, example in enumerate(examples):
        found.setdefault(example.fact, []).append(place)
    return list(found.values())


def _order(seed: str, count: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _after_prompts(examples: Sequence[Example], paths: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the rows of a pack after prompts, and after each token of what follows them."""
    rows = [row for one, path in zip(examples, paths, strict=True) for row in path[len(one.prompt) - 1 :]]
    return torch.tensor(rows, dtype=torch.long)
