"""The gate: what passes, each reason why something does not, and that nothing but its report is left of that."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from memos.activation.bundle import bundle_of, note_of
from memos.cube import MemCube
from memos.parametric.distil.asking import holds
from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.gate import MAX_DRIFT, GateReport, _others, _reasons, drift, examine
from memos.parametric.distil.lora import LoraStudent
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.run import distil
from memos.parametric.distil.trie import pack
from memos.parametric.distil.twin import Twin
from memos.runtime.host import Serving

GOOD = GateReport(
    facts=8,
    questions=16,
    recall=0.9,
    recall_base=0.1,
    recall_shuffled=0.0,
    log_likelihood=-0.1,
    log_likelihood_base=-5.0,
    log_likelihood_shuffled=-6.0,
    confused=0.1,
    drift=0.01,
    max_drift=MAX_DRIFT,
    seconds=1.0,
)


def test_what_knows_its_facts_and_little_else_passes() -> None:
    assert _reasons(GOOD) == ()
    assert GOOD.passed
    assert GOOD.plain["passed"] is True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recall": 0.79}, "must answer 80%"),
        ({"recall": 0.9, "recall_base": 0.9}, "bare model answers 90%"),
        ({"log_likelihood": -5.0}, "no likelier than the bare model's"),
        ({"recall_shuffled": 0.9}, "answers of other facts"),
        ({"log_likelihood_shuffled": -0.1}, "answers of other facts"),
        ({"confused": 0.51}, "51% of strangers"),
        ({"drift": 0.021}, "0.0210 nats"),
        ({"drift": math.nan}, "nan nats"),
        ({"log_likelihood": math.nan}, "no likelier"),
    ],
)
def test_each_failure_has_its_reason(change: dict[str, float], reason: str) -> None:
    reasons = _reasons(replace(GOOD, **change))  # type: ignore[arg-type]  # fields of it
    assert reasons
    assert any(reason in one for one in reasons)


@pytest.mark.parametrize(
    ("text", "answer", "is_held"),
    [
        ("Her home town is Lisbon.", "Lisbon", True),
        ("It is the lisbon, of course", "Lisbon", True),
        ("a Grey  parrot!", "the grey parrot", True),
        ("Lisbonne", "Lisbon", False),
        ("14471", "4471", False),
        ("", "Lisbon", False),
    ],
)
def test_answer_holds_whole_words(text: str, answer: str, is_held: bool) -> None:
    assert holds(text, answer) is is_held


@pytest.mark.parametrize(
    "texts", [["Oslo"], ["Oslo", "Oslo"], ["Oslo", "Rome"], ["a cat", "cat"], ["Helsinki"], ["a", "b", "c", "d"]]
)
def test_shuffled_answer_is_another_one(texts: list[str]) -> None:
    for answer, other in zip(texts, _others(texts), strict=True):
        assert not holds(answer, other)
        assert not holds(other, answer)


def test_drift_is_the_divergence_from_the_bare_model(tiny: Serving, lesson: Lesson, small: Recipe) -> None:
    student = LoraStudent(Twin(tiny.loaded), small, tiny.loaded.identity.base)
    student.begin(lesson)
    assert drift(student, lesson.unrelated) == pytest.approx(0, abs=1e-6)
    for parameter in student.parameters.values():
        parameter.data.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.3)
    total, count = 0.0, 0
    for one in lesson.unrelated:
        rows = slice(len(one.prompt) - 1, None)
        packed = pack([one.tokens])
        with torch.no_grad():
            base = student.twin.log_probabilities(student.base_hidden(packed)[rows])
            changed = student.twin.log_probabilities(student.hidden(packed)[rows])
        total += torch.nn.functional.kl_div(changed, base, log_target=True, reduction="sum").item()
        count += len(base)
    assert drift(student, lesson.unrelated) == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("payload", ["lora", "cartridge"])
def test_untrained_one_is_refused_by_what_it_says(
    tiny: Serving, lesson: Lesson, notes: list[MemCube], small: Recipe, payload: str
) -> None:
    recipe = replace(small, payload=payload, epochs=1)
    done = distil(tiny, lesson, bundle_of(map(note_of, notes)), recipe, lambda _: None)
    assert not done.gate.passed
    assert done.gate.recall == 0
    assert (done.gate.facts, done.gate.questions) == (3, len(lesson.held))
    assert tiny.runtime.idle


def test_gate_asks_through_the_loop_that_serves(tiny: Serving, lesson: Lesson, small: Recipe) -> None:
    """One that has learnt nothing says what the bare model says, and is refused for it."""
    student = LoraStudent(Twin(tiny.loaded), small, tiny.loaded.identity.base)
    student.begin(lesson)
    found = examine(tiny, student, student.finish(), lesson)
    assert found.recall == found.recall_base == 0
    assert "bare model" in " ".join(found.reasons)
