"""LoRA on a twin (arXiv:2106.09685): every chosen projection ``W x`` becomes ``W x + B A x``, W as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from memos.parametric.adapter import FEED_FORWARD, Adapter, Factors
from memos.parametric.distil.adapted import AdaptedTwin
from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.keys import directions
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.trie import packs
from memos.parametric.distil.twin import Twin
from memos.parametric.naming import module_name

#: Examples that the start is computed from, at least if there are so many; rows of their text, at most.
MIN_EXAMPLES, MAX_ROWS = 24, 1024
#: Tokens of one forward meanwhile, before what is shared is merged.
PACK_TOKENS = 1024
#: Projections that read the same input, by the one that stands for them.
_SAME_INPUT = {"mlp.up_proj": "mlp.gate_proj"}

Place = tuple[int, str]


class LoraStudent(AdaptedTwin):
    """An adapter of rank ``recipe.rank`` on feed-forward projections, scaling 1, in float32.

    The first layers stay as they are: they read words and know nothing yet, and the backward pass ends before them.
    """

    def __init__(self, twin: Twin, recipe: Recipe, base: str) -> None:
        super().__init__(twin)
        self.rate = recipe.rate
        self._recipe = recipe
        self._base = base
        layers = int(twin.config.num_hidden_layers)
        first = int(recipe.skip * layers)
        self._places = [(layer, name) for layer in range(first, layers) for name in FEED_FORWARD]
        self._factors = {place: self._install(place) for place in self._places}
        self.parameters: Mapping[str, torch.nn.Parameter] = {
            f"{module_name(*place)}.{side}": factor
            for place, factors in self._factors.items()
            for side, factor in zip(("down", "up"), factors, strict=True)
        }

    def begin(self, lesson: Lesson) -> None:
        """Let A read what sets the facts' questions apart from generic text; B is zero, so nothing has changed yet.

        Answers are left out: their tokens stand in other questions too, and what A reads there would bring the answer.
        """
        closed = [one for one in lesson.trained if one.prompt != one.taught]
        some = closed[:: max(1, len(closed) // max(MIN_EXAMPLES, len(lesson.facts)))]
        asked = [one.prompt for one in some]
        facts = self._inputs(asked, _shared(asked), MAX_ROWS)
        generic = self._inputs([one.tokens for one in (*lesson.preserved, *lesson.questions[::2])], 0, None)
        found = {
            place: directions(facts[place], generic[place], self._recipe.rank, self._recipe.ridge) for place in facts
        }
        with torch.no_grad():
            for (layer, name), (down, up) in self._factors.items():
                down.copy_(found[layer, _SAME_INPUT.get(name, name)])
                up.zero_()

    def finish(self) -> Adapter:
        """Return the adapter, in the model's dtype."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(self.twin.dtype).float()
        served = {
            place: [one.detach().to("cpu", self.twin.dtype) for one in pair] for place, pair in self._factors.items()
        }
        return Adapter(self._base, {place: Factors(down.clone(), up.clone()) for place, (down, up) in served.items()})

    # ------------------------------------------------------------ inside

    def _install(self, place: Place) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        linear: Any = self.twin.model.get_submodule(module_name(*place))
        rank, device = self._recipe.rank, self.twin.device
        down = torch.nn.Parameter(torch.zeros(rank, linear.in_features, device=device))
        up = torch.nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        self.add(place, down, up)
        return down, up

    @torch.no_grad()
    def _inputs(self, sequences: Sequence[tuple[int, ...]], start: int, most: int | None) -> dict[Place, torch.Tensor]:
        """Return what each projection reads, ``[n, in]``, from position ``start`` on, evenly thinned to ``most``."""
        stride = max(1, -(-sum(len(one) - start for one in sequences) // most)) if most else 1
        gathered: dict[Place, list[torch.Tensor]] = {place: [] for place in self._places if place[1] not in _SAME_INPUT}
        for _, packed in packs(sequences, PACK_TOKENS):
            rows = torch.nonzero(packed.positions >= start)[::stride, 0].to(self.twin.device)
            with ExitStack() as hooks:
                for place, kept in gathered.items():
                    linear: Any = self.twin.model.get_submodule(module_name(*place))
                    hooks.enter_context(linear.register_forward_hook(partial(_keep, kept, rows)))
                self.twin.hidden(packed)
        return {place: torch.cat(kept) for place, kept in gathered.items()}


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all sequences begin with."""
    columns = enumerate(zip(*sequences, strict=False))
    return next((place for place, column in columns if len(set(column)) > 1), min(map(len, sequences)))


def _keep(
    kept: list[torch.Tensor],
    rows: torch.Tensor,
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> None:
    kept.append(inputs[0][0, rows])
