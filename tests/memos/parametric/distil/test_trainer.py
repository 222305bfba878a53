"""Training as a process: the same twice, in one go or in pieces, stopped, and refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memos.activation.bundle import bundle_of, note_of
from memos.cube import MemCube
from memos.errors import InvalidInput, TrainingRefused
from memos.parametric.distil.checkpoint import FILE, Checkpoint, Progress
from memos.parametric.distil.examples import Lesson, lesson_of
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.run import student_of
from memos.parametric.distil.trainer import Trainer
from memos.runtime.host import Serving
from memos.schedule.task import Interrupted

Train = Callable[..., tuple[str, Progress]]


def quiet(_: float) -> None:
    """Report to nobody."""


@pytest.fixture
def train(tiny: Serving, notes: list[MemCube], lesson: Lesson, small: Recipe) -> Train:
    """Train on the notes; return the digest and how it went."""

    def run(
        folder: Path | None = None, report: Callable[[float], None] = quiet, identity: str = "i", **own: object
    ) -> tuple[str, Progress]:
        recipe = replace(small, **own)  # type: ignore[arg-type]  # any fields of it
        student = student_of(tiny, bundle_of(map(note_of, notes)), recipe)
        checkpoint = None if folder is None else Checkpoint(folder, identity)
        progress = Trainer(student, lesson, recipe, checkpoint).run(report)
        return student.finish().digest, progress

    return run


class StopAfter:
    """Interrupts a training at its n-th report."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, _: float) -> None:
        self.left -= 1
        if not self.left:
            raise Interrupted


@pytest.mark.parametrize("payload", ["lora", "cartridge"])
def test_same_seed_trains_the_same(train: Train, payload: str) -> None:
    first, progress = train(payload=payload)
    assert progress.losses[-1] < progress.losses[0]
    assert train(payload=payload)[0] == first
    assert train(payload=payload, seed=5)[0] != first


@pytest.mark.parametrize("payload", ["lora", "cartridge"])
@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.soak), 2, pytest.param(3, marks=pytest.mark.soak)])
def test_interrupted_training_ends_as_an_uninterrupted_one(
    train: Train, tmp_path: Path, payload: str, steps: int
) -> None:
    digest, whole = train(payload=payload)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(tmp_path, StopAfter(steps), payload=payload)
    again, pieced = train(tmp_path, payload=payload)
    assert again == digest
    assert (pieced.losses, pieced.right) == (whole.losses, whole.right)


def test_checkpoint_of_another_training_is_not_resumed(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, StopAfter(3), "other", seed=9)
    assert train(tmp_path)[0] == train()[0]


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_checkpoint_is_not_resumed(train: Train, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    assert train(tmp_path)[0] == train()[0]


def test_truncated_checkpoint_is_not_resumed(train: Train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, StopAfter(3))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    assert train(tmp_path)[0] == train()[0]


def test_training_goes_on_where_no_checkpoint_can_be_written(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_bytes(b"in the way")
    with pytest.raises(Interrupted):
        train(folder, StopAfter(2))
    assert train(folder)[0] == train()[0]
    assert folder.read_bytes() == b"in the way"


def test_checkpoint_of_a_finished_training_ends_at_once(train: Train, tmp_path: Path) -> None:
    reports: list[float] = []

    def stop_at_the_end(share: float) -> None:
        if share == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path, stop_at_the_end)
    assert train(tmp_path, reports.append)[0] == train()[0]
    assert reports == []


def test_progress_grows_to_the_end(train: Train) -> None:
    reports: list[float] = []
    train(report=reports.append)
    assert reports == sorted(reports)
    assert reports[-1] == 1


def test_training_ends_when_all_is_learnt(train: Train) -> None:
    _, progress = train(stop_loss=10.0, epochs=100, rank=16, rate=5e-2, preserve=0.0, patience=100)
    assert progress.right[-1] == 1
    assert len(progress.losses) < 100


def test_training_ends_when_nothing_more_is_learnt(train: Train) -> None:
    _, progress = train(rate=1e-6, epochs=50, patience=2, teacher=1.0, preserve=0.0)
    assert len(progress.losses) < 50


def test_loss_that_is_not_finite_is_refused(tiny: Serving, lesson: Lesson, notes: list[MemCube], small: Recipe) -> None:
    student = student_of(tiny, bundle_of(map(note_of, notes)), small)

    def spoil(_: float) -> None:
        for parameter in student.parameters.values():
            parameter.data.fill_(torch.nan)

    with pytest.raises(TrainingRefused, match="not finite"):
        Trainer(student, lesson, small).run(spoil)


def test_teacher_who_reads_the_note_is_followed(train: Train) -> None:
    assert train(teacher=1.0)[0] != train(teacher=0.5)[0] != train()[0]


def test_nothing_to_learn_is_refused_with_what_to_do(tiny: Serving, small: Recipe) -> None:
    with pytest.raises(TrainingRefused, match="subject, attribute and value"):
        lesson_of([], tiny.loaded, tiny.format, small)


def test_answers_too_long_for_the_model_are_left_out(tiny: Serving, notes: list[MemCube], small: Recipe) -> None:
    facts = facts_of(notes)
    huge = replace(facts[0], line=f"{'very ' * 300}long\n")
    assert lesson_of([huge, *facts[1:]], tiny.loaded, tiny.format, small).facts == tuple(facts[1:])


def test_prompts_are_those_of_a_chat(tiny: Serving, lesson: Lesson) -> None:
    fact = lesson.facts[0]
    asked = tiny.format.prompt([], [{"role": "user", "content": fact.questions[0]}])
    assert list(lesson.trained[0].prompt) == asked
    told = tiny.format.prompt(tiny.format.encode_text(fact.line), [{"role": "user", "content": fact.questions[0]}])
    assert list(lesson.trained[0].taught) == told
    assert lesson.trained[0].answer[-1] in tiny.loaded.eos_ids


@pytest.mark.parametrize(
    "options",
    [{"ranks": 3}, {"rank": 0}, {"rank": 2.5}, {"epochs": True}, {"rate": "fast"}, {"payload": "dense"}, {"seed": -1}],
)
def test_recipe_refuses_what_it_cannot_follow(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"option|must be"):
        Recipe.of(options)
