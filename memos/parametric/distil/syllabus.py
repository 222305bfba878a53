"""What has its turn in which step: a function of seed and step alone, so that any step can be the first."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from memos.parametric.distil.examples import Example
from memos.parametric.distil.recipe import Recipe


class Syllabus:
    """The order of the trained examples: in every epoch each fact is asked for in other ways, in another order.

    ``size`` is the number of examples in an epoch, ``epoch_steps`` and ``steps`` are those of an epoch and of all.
    """

    def __init__(self, examples: Sequence[Example], recipe: Recipe) -> None:
        by_fact: dict[int, list[int]] = {}
        for place, example in enumerate(examples):
            by_fact.setdefault(example.fact, []).append(place)
        self._facts = list(by_fact.values())
        self._recipe = recipe
        self.size = sum(min(recipe.ways, len(places)) for places in self._facts)
        self.epoch_steps = math.ceil(self.size / recipe.batch)
        epochs = max(recipe.epochs, math.ceil(recipe.least_steps / self.epoch_steps))
        self.steps = epochs * self.epoch_steps

    def chosen(self, step: int) -> list[int]:
        """Return the places of a step's examples."""
        epoch, number = divmod(step, self.epoch_steps)
        asked = []
        for places in self._facts:
            count = min(self._recipe.ways, len(places))
            asked += [places[(epoch * count + way) % len(places)] for way in range(count)]
        batch = self._recipe.batch
        return [
            asked[one] for one in order(f"trained {self._recipe.seed} {epoch}", len(asked))[number * batch :][:batch]
        ]


def turns(name: str, seed: int, step: int, count: int, size: int) -> list[int]:
    """Return which ``count`` of ``size`` things have their turn in a step, all having one before any has another."""
    rounds = [divmod(number, size) for number in range(step * count, (step + 1) * count)]
    return list(dict.fromkeys(order(f"{name} {seed} {turn}", size)[place] for turn, place in rounds))


def order(seed: str, count: int) -> list[int]:
    """Return a permutation that follows from the seed."""
    places = list(range(count))
    random.Random(seed).shuffle(places)
    return places
