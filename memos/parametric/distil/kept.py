"""What must not change while facts are learnt: prompts of one kind, with what the bare model says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos.parametric.distil.examples import Example, Lesson
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.student import Student
from memos.parametric.distil.syllabus import turns
from memos.parametric.distil.targets import Targets, preserved_targets


@dataclass(frozen=True, slots=True)
class Kept:
    """Prompts of one kind; ``weight`` is theirs in the loss, ``count`` of them have their turn in a step."""

    name: str
    weight: float
    count: int
    examples: tuple[Example, ...]
    targets: Sequence[Targets]

    def turn(self, step: int, seed: int) -> list[tuple[Example, Targets]]:
        """Return those of a step."""
        places = turns(self.name, seed, step, self.count, len(self.examples))
        return [(self.examples[place], self.targets[place]) for place in places]


def kept_of(student: Student, lesson: Lesson, recipe: Recipe) -> list[Kept]:
    """Ask the bare model about generic text, anything and strangers, as far as the recipe holds on to them."""
    kinds = (
        ("preserved", recipe.preserve, recipe.preserved, lesson.preserved),
        ("questions", recipe.preserve, recipe.questions, lesson.questions),
        ("strangers", recipe.distinguish, recipe.strangers, lesson.strangers),
    )
    return [
        Kept(name, weight, count, examples, preserved_targets(student, examples, recipe.top_k))
        for name, weight, count, examples in kinds
        if weight and count and examples
    ]
