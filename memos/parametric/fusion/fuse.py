"""Adapters to one adapter: checks, the methods by name, and what holds for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch

from memos.errors import AdapterRefused, InvalidInput
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.fusion.base import Fusion, Part
from memos.parametric.fusion.cat import Cat
from memos.parametric.fusion.dare import DareLinear, DareTies
from memos.parametric.fusion.delta import on_delta
from memos.parametric.fusion.linear import Linear
from memos.parametric.fusion.magnitude import MagnitudePrune
from memos.parametric.fusion.svd import Svd
from memos.parametric.fusion.ties import Ties
from memos.parametric.naming import module_name

#: Makers by name; each takes its options by keyword. Those that end in ``_svd`` merge what adapters add to a weight.
METHODS: dict[str, Callable[..., Fusion]] = {
    "cat": Cat,
    "dare_linear": DareLinear,
    "dare_linear_svd": partial(on_delta, DareLinear),
    "dare_ties": DareTies,
    "dare_ties_svd": partial(on_delta, DareTies),
    "linear": Linear,
    "magnitude_prune": MagnitudePrune,
    "magnitude_prune_svd": partial(on_delta, MagnitudePrune),
    "svd": Svd,
    "ties": Ties,
    "ties_svd": partial(on_delta, Ties),
}

_Place = tuple[int, str]


def fuse(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    method: str,
    *,
    max_rank: int | None = None,
    **options: Any,
) -> Adapter:
    """Return one adapter that stands for ``sum_i weights[i] * adapters[i]``, exactly (``cat``) or nearly.

    Adapters may change different modules; a module is merged from those that change it. ``options`` are those of the
    method in :data:`METHODS`: ``rank`` and ``error`` (svd), ``density`` (ties, dare, magnitude), ``seed`` (dare),
    ``rank`` (all that end in ``_svd``). Sums are float32, rounded once to the widest dtype that a module comes in.

    Raises :class:`InvalidInput` for no adapters, weights that are not finite, not as many, or all 0, an unknown method
    or option; :class:`AdapterRefused` for adapters of different models or shapes, with values that are not finite or
    become so, with unequal ranks where the method needs equal ones, and for a result of more than ``max_rank``.
    """
    chosen = _fusion(method, options)
    _check(adapters, weights)
    modules: dict[_Place, list[tuple[Factors, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for place, factors in adapter.sorted():
            if weight * factors.scaling:
                modules.setdefault(place, []).append((factors, weight * factors.scaling))
    if not modules:
        raise InvalidInput("there is nothing to fuse: every weight is 0")
    fused = {place: _module(chosen, place, counted) for place, counted in modules.items()}
    made = Adapter(adapters[0].base, fused)
    if max_rank is not None and made.rank > max_rank:
        raise AdapterRefused(f"{method} makes rank {made.rank}, {max_rank} are allowed; svd makes any rank")
    return made


def _fusion(method: str, options: Mapping[str, Any]) -> Fusion:
    if method not in METHODS:
        raise InvalidInput(f"no method is called {method!r}; there are: {', '.join(METHODS)}")
    try:
        return METHODS[method](**options)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{method} cannot be used so: {error}") from error


def _check(adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    if not adapters:
        raise InvalidInput("there is nothing to fuse: no adapters")
    if len(weights) != len(adapters):
        raise InvalidInput(f"{len(weights)} weights for {len(adapters)} adapters; each needs one")
    if not all(math.isfinite(weight) for weight in weights):
        raise InvalidInput("a weight is not finite")
    if len({adapter.base for adapter in adapters}) > 1:
        raise AdapterRefused("they were made for different models")


def _module(chosen: Fusion, place: _Place, counted: Sequence[tuple[Factors, float]]) -> Factors:
    """Merge one module: check, make float32 parts, merge, round once."""
    name = module_name(*place)
    _check_module(name, counted)
    largest = max(abs(weight) for _, weight in counted)
    made = chosen.fuse([Part(one.down.float(), one.up.float(), weight / largest) for one, weight in counted])
    dtype = reduce(torch.promote_types, (one.down.dtype for one, _ in counted))
    rounded = Factors(made.down.to(dtype).contiguous(), made.up.to(dtype).contiguous(), made.scaling * largest)
    if not _finite(rounded):
        raise AdapterRefused(f"{name}: the result holds values that are not finite")
    return rounded


def _check_module(name: str, counted: Sequence[tuple[Factors, float]]) -> None:
    for one, weight in counted:
        if one.down.ndim != 2 or one.up.ndim != 2 or not 0 < one.rank == one.up.shape[1]:
            raise AdapterRefused(f"{name}: {list(one.down.shape)} and {list(one.up.shape)} are no pair of factors")
        if not (math.isfinite(weight) and _finite(one)):
            raise AdapterRefused(f"{name}: an adapter holds values that are not finite")
    if len({(one.down.shape[1], one.up.shape[0]) for one, _ in counted}) > 1:
        raise AdapterRefused(f"{name}: the adapters are of different sizes there")


def _finite(factors: Factors) -> bool:
    """Whether all is finite: the extremes are, and NaN would be one. Several times as fast as looking at each."""
    extremes = [extreme for tensor in (factors.down, factors.up) for extreme in torch.aminmax(tensor)]
    return math.isfinite(factors.scaling) and all(math.isfinite(extreme) for extreme in extremes)
