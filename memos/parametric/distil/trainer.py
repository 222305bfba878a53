"""Training: answer tokens are learnt, or a teacher's thoughts about them, and what must not change is held on to.

    loss = (1 - teacher) * mean_e nll(answer_e) + teacher * mean_e KL(base with the note || student)
           + preserve * (mean KL(base || student) on generic text + the same on generic questions)
           + distinguish * mean KL(base || student) on questions about strangers

Equal seeds give equal weights on one machine and thread count, whether training was interrupted or not: the order of
the examples follows from the seed and the epoch, nothing else is random, and a checkpoint holds all that changes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from safetensors import SafetensorError

from memos.errors import TrainingRefused
from memos.parametric.distil.checkpoint import Checkpoint, Progress
from memos.parametric.distil.examples import Example, Lesson
from memos.parametric.distil.kept import Kept, kept_of
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.scoring import AnswerRows, Scores
from memos.parametric.distil.student import Student
from memos.parametric.distil.syllabus import Syllabus
from memos.parametric.distil.targets import Targets, joined, taught_targets
from memos.parametric.distil.trie import pack
from memos.schedule.task import Interrupted, Report

logger = logging.getLogger(__name__)

#: Seconds between checkpoints.
SAVE_S = 15.0
#: How much of the learning rate is gone at the end of the last epoch.
FALL = 0.9


class Trainer:
    """One training."""

    def __init__(self, student: Student, lesson: Lesson, recipe: Recipe, checkpoint: Checkpoint | None = None) -> None:
        self._student = student
        self._lesson = lesson
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._parameters = list(student.parameters.values())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=student.rate, weight_decay=0.0)
        self._syllabus = Syllabus(lesson.trained, recipe)
        self._kept: list[Kept] = []
        self._taught: list[Targets] = []
        self._saved = 0.0

    def run(self, report: Report) -> Progress:
        """Train to the end, from a checkpoint if there is one.

        ``report`` is told the share of the longest training that is done. What it raises ends the training; an
        :class:`Interrupted` leaves a checkpoint, where one can be written. Raises :class:`TrainingRefused` when the
        loss is not finite.
        """
        progress = self._begin()
        self._saved = time.monotonic()
        while progress.step < self._syllabus.steps and not self._over(progress):
            self._step(progress)
            if progress.step % self._syllabus.epoch_steps == 0:
                self._close_epoch(progress)
            self._tell(progress, report)
        return progress

    # ------------------------------------------------------------ beginning and ending

    def _begin(self) -> Progress:
        progress = self._checkpoint and self._checkpoint.load(self._student.parameters, self._optimiser)
        if not progress:
            self._student.begin(self._lesson)
        self._kept = kept_of(self._student, self._lesson, self._recipe)
        if self._recipe.teacher:
            self._taught = taught_targets(self._student, self._lesson.trained, self._recipe.top_k)
        return progress or Progress()

    def _close_epoch(self, progress: Progress) -> None:
        progress.losses.append(progress.loss_sum / self._syllabus.size)
        progress.right.append(progress.right_sum / self._syllabus.size)
        progress.loss_sum = progress.right_sum = 0.0

    def _over(self, progress: Progress) -> bool:
        """Whether all is learnt, or no more is being learnt. Only an epoch's end changes it."""
        losses, patience = progress.losses, self._recipe.patience
        if not losses or progress.step < self._recipe.least_steps:
            return False
        learnt = losses[-1] < self._recipe.stop_loss and progress.right[-1] == 1.0
        return learnt or (len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience]))

    def _tell(self, progress: Progress, report: Report) -> None:
        """Save now and then, and report."""
        if self._checkpoint is None:
            report(progress.step / self._syllabus.steps)
            return
        if time.monotonic() - self._saved >= SAVE_S:
            self._save(self._checkpoint, progress)
        try:
            report(progress.step / self._syllabus.steps)
        except Interrupted:
            self._save(self._checkpoint, progress)
            raise

    def _save(self, checkpoint: Checkpoint, progress: Progress) -> None:
        """Write a checkpoint, or go on without: its folder goes with any change of a memory, and disks are full."""
        try:
            checkpoint.save(self._student.parameters, self._optimiser, progress)
        except (OSError, SafetensorError) as error:
            logger.warning("a training has no checkpoint: %s", error)
        self._saved = time.monotonic()

    # ------------------------------------------------------------ a step

    def _step(self, progress: Progress) -> None:
        loss, scores = self._loss(progress.step)
        if not math.isfinite(loss.item()):
            raise TrainingRefused(
                "the training came to values that are not finite: choose a smaller rate, or run the model in float32"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._student.rate * (1 - FALL * progress.step / self._syllabus.steps)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        progress.step += 1
        progress.loss_sum += scores.loss.sum().item()
        progress.right_sum += scores.right.sum().item()

    def _loss(self, step: int) -> tuple[torch.Tensor, Scores]:
        """Return the loss of a step, everything in one forward, and what its examples come to."""
        chosen = self._syllabus.chosen(step)
        examples = [self._lesson.trained[place] for place in chosen]
        kept = [kind.turn(step, self._recipe.seed) for kind in self._kept]
        others = [one for turn in kept for one, _ in turn]
        packed = pack([one.tokens[:-1] for one in examples] + [one.tokens for one in others])
        where = AnswerRows.of(examples, packed)
        hidden = self._student.hidden(packed)
        rows = torch.cat([where.rows, _after_prompts(others, packed.rows[len(examples) :])])
        log_probabilities = self._student.twin.log_probabilities(hidden[rows.to(hidden.device)])
        scores = Scores.of(where, log_probabilities[: len(where.rows)])
        loss = (1 - self._recipe.teacher) * scores.loss.mean()
        if self._taught:
            taught = joined([self._taught[place] for place in chosen])
            followed = where.per_example(taught.divergence(log_probabilities[: len(where.rows)]))
            loss = loss + self._recipe.teacher * followed.mean()
        first = len(where.rows)
        for kind, turn in zip(self._kept, kept, strict=True):
            targets = joined([one for _, one in turn])
            last = first + len(targets.rest)
            loss = loss + kind.weight * targets.divergence(log_probabilities[first:last]).mean()
            first = last
        return loss, scores


def _after_prompts(examples: Sequence[Example], paths: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the rows of a pack after prompts, and after each token of what follows them."""
    rows = [row for one, path in zip(examples, paths, strict=True) for row in path[len(one.prompt) - 1 :]]
    return torch.tensor(rows, dtype=torch.long)
