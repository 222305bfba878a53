"""The adapter that is trained: where it begins, what it shares with the model that serves, and what is served of it."""

from __future__ import annotations

import pytest
import torch

from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.keys import directions
from memos.parametric.distil.lora import LoraStudent
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.trainer import Trainer
from memos.parametric.distil.trie import pack
from memos.parametric.distil.twin import Twin
from memos.runtime.host import Serving
from memos.runtime.uses import AdapterUse


@pytest.fixture
def student(tiny: Serving, small: Recipe) -> LoraStudent:
    return LoraStudent(Twin(tiny.loaded), small, tiny.loaded.identity.base)


def test_adapter_begins_without_an_effect(student: LoraStudent, lesson: Lesson) -> None:
    student.begin(lesson)
    packed = pack([lesson.held[0].tokens])
    torch.testing.assert_close(student.hidden(packed), student.base_hidden(packed), atol=0, rtol=0)


def test_training_leaves_the_serving_model_alone(
    tiny: Serving, student: LoraStudent, lesson: Lesson, small: Recipe
) -> None:
    before = {name: weight.clone() for name, weight in tiny.loaded.model.state_dict().items()}
    logits = tiny.runtime.logits(lesson.held[0].tokens)
    Trainer(student, lesson, small).run(lambda _: None)
    assert all(torch.equal(before[name], weight) for name, weight in tiny.loaded.model.state_dict().items())
    assert not any(weight.requires_grad for weight in tiny.loaded.model.parameters())
    torch.testing.assert_close(tiny.runtime.logits(lesson.held[0].tokens), logits, atol=0, rtol=0)


def test_weights_are_shared_and_modules_are_not(tiny: Serving, student: LoraStudent) -> None:
    ours, theirs = student.twin.model, tiny.loaded.model
    assert not {id(module) for module in ours.modules()} & {id(module) for module in theirs.modules()}
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)


def test_adapter_is_served_as_it_was_trained(
    tiny: Serving, student: LoraStudent, lesson: Lesson, small: Recipe
) -> None:
    Trainer(student, lesson, small).run(lambda _: None)
    adapter = student.finish()
    tokens = lesson.held[0].tokens
    served = tiny.runtime.logits(tokens, adapters=[AdapterUse(adapter.digest, lambda: adapter)])
    trained = student.twin.log_probabilities(student.hidden(pack([tokens])))
    torch.testing.assert_close(torch.log_softmax(served, -1), trained, atol=1e-4, rtol=1e-4)
    assert (adapter.rank, len(adapter.factors)) == (small.rank, 6)


def test_directions_are_the_best_by_their_ratio() -> None:
    random = torch.Generator().manual_seed(3)
    mixed = torch.randn(24, 24, generator=random)
    facts = torch.randn(40, 24, generator=random) @ torch.diag(torch.linspace(3, 0.1, 24))
    generic = torch.randn(60, 24, generator=random) @ mixed
    below = generic.T @ generic / 60 + 0.1 * generic.square().mean() * torch.eye(24)
    lower = torch.linalg.cholesky(below)
    inverse = torch.linalg.inv(lower)
    best = torch.linalg.eigvalsh(inverse @ (facts.T @ facts / 40) @ inverse.T).flip(0)[:3]
    found = directions(facts, generic, rank=3, ridge=0.1)
    ratios = torch.stack([(row @ facts.T).square().mean() / (row @ below @ row) for row in found])
    torch.testing.assert_close(ratios, best, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close((facts @ found.T).square().mean(0), torch.ones(3), rtol=1e-3, atol=1e-3)


def test_directions_beyond_what_there_is_are_zero() -> None:
    found = directions(torch.randn(2, 8), torch.randn(5, 8), rank=6, ridge=0.1)
    assert found.isfinite().all()
    assert (found[2:] == 0).all()
