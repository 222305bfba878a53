"""Distillation from end to end: train a student on a lesson, then put what it learnt to the gate."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from memos.activation.bundle import Bundle
from memos.parametric.checks import Trained
from memos.parametric.distil.cartridge import CartridgeStudent
from memos.parametric.distil.checkpoint import Checkpoint, Progress
from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.gate import GateReport, examine
from memos.parametric.distil.lora import LoraStudent
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.student import Student
from memos.parametric.distil.trainer import Trainer
from memos.parametric.distil.twin import Twin
from memos.runtime.host import Serving
from memos.schedule.task import Report

#: How much of the reported progress is training; the gate has the rest.
TRAINING = 0.9


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came out: ``seconds`` are those of training, the gate's are in its report."""

    trained: Trained
    gate: GateReport
    progress: Progress
    seconds: float


def distil(
    serving: Serving, lesson: Lesson, bundle: Bundle, recipe: Recipe, report: Report, folder: Path | None = None
) -> Distilled:
    """Train on a lesson and examine the result, whatever the gate finds.

    With a ``folder``, training goes on from the checkpoint there if it is one of the same training. Raises
    :class:`TrainingRefused`, and what ``report`` raises.
    """
    started = time.perf_counter()
    student = student_of(serving, bundle, recipe)
    checkpoint = None if folder is None else Checkpoint(folder, _identity(serving, lesson, recipe))
    progress = Trainer(student, lesson, recipe, checkpoint).run(lambda share: report(TRAINING * share))
    trained = student.finish()
    seconds = time.perf_counter() - started
    report(TRAINING)
    return Distilled(trained, examine(serving, student, trained, lesson), progress, seconds)


def student_of(serving: Serving, bundle: Bundle, recipe: Recipe) -> Student:
    """Return what is to be trained. A cartridge begins as the cache of the first tokens of the bundle's prompt."""
    twin, base = Twin(serving.loaded), serving.loaded.identity.base
    if recipe.payload == "lora":
        return LoraStudent(twin, recipe, base)
    prompt = [*serving.format.head, *bundle.tokens(serving.format.encode_text)]
    return CartridgeStudent(twin, recipe, serving.runtime.prefill(prompt[: recipe.tokens]), base)


def _identity(serving: Serving, lesson: Lesson, recipe: Recipe) -> str:
    """Return a hex SHA-256 of all that decides what training comes to."""
    kept = (*lesson.strangers, *lesson.questions, *lesson.preserved)
    read = [[one.prompt, one.answer, one.taught] for one in (*lesson.trained, *kept)]
    whole = [serving.loaded.identity.base, recipe.plain, read]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
