"""Adapters as they lie in the pool: rank rows cut into slots, B scaled, the first ranks of all modules first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memos.errors import AdapterRefused
from memos.parametric.adapter import PROJECTIONS, Adapter, Factors
from memos.runtime.pool import PageShape
from memos_kernels.adapters import GROUP, layout_of


@dataclass(frozen=True, slots=True)
class Modules:
    """The projections of a model: ``chunks`` int32 ``[layers * 7, 2]``, the slots of their inputs and outputs."""

    base: str
    layers: int
    chunks: NDArray[np.int32]
    width: int

    @classmethod
    def of(cls, model: torch.nn.Module, base: str, shape: PageShape) -> Modules:
        """Return the projections of a model of the Llama family."""
        sizes = [(linear.in_features, linear.out_features) for linear in projections(model)]
        chunks = np.array(sizes, np.int32) // shape.width
        return cls(base, len(sizes) // len(PROJECTIONS), chunks, shape.width)


@dataclass(frozen=True, slots=True)
class Packed:
    """An adapter ready to be copied into pages: ``run`` is ``[slots, width]``; the rest as AdapterStep wants it.

    ``starts`` says where each group of four ranks begins in the run.
    """

    run: torch.Tensor
    ranks: NDArray[np.int32]
    places: NDArray[np.int32]
    starts: NDArray[np.int64]


def projections(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """Return the linear modules that adapters may change, layer by layer."""
    layers = model.get_submodule("model.layers")
    return [layer.get_submodule(name) for layer in layers.children() for name in PROJECTIONS]  # type: ignore[misc]


def pack(adapter: Adapter, modules: Modules, dtype: torch.dtype) -> Packed:
    """Lay an adapter out for a model, its scaling folded into B, rounded once to ``dtype``.

    Raises :class:`AdapterRefused`: of another model, a projection that is not there, wrong shapes, values that are not
    finite.
    """
    if adapter.base != modules.base:
        raise AdapterRefused("the adapter was made for another model")
    ranks = np.zeros(len(modules.chunks), np.int32)
    for (layer, projection), factors in adapter.factors.items():
        index = _index(layer, projection, modules)
        _check(factors, modules.chunks[index] * modules.width, f"layers.{layer}.{projection}")
        ranks[index] = factors.rank
    places, starts = layout_of(ranks, modules.chunks)
    run = np.empty((int(starts[-1]), modules.width), np.float32)
    for (layer, projection), factors in adapter.factors.items():
        _place(factors, run, places[_index(layer, projection, modules)])
    packed = torch.from_numpy(run).to(dtype)
    if not packed.isfinite().all():  # rounded: float16 ends at 65504
        raise AdapterRefused(f"the adapter holds values that are not finite in {dtype}")
    return Packed(packed, ranks, places, starts)


def _index(layer: int, projection: str, modules: Modules) -> int:
    if not 0 <= layer < modules.layers or projection not in PROJECTIONS:
        raise AdapterRefused(f"the model has no projection layers.{layer}.{projection}")
    return layer * len(PROJECTIONS) + PROJECTIONS.index(projection)


def _check(factors: Factors, sizes: NDArray[np.int32], name: str) -> None:
    inward, outward = sizes.tolist()
    rank = factors.rank
    if factors.down.shape != (rank, inward) or factors.up.shape != (outward, rank) or not rank:
        raise AdapterRefused(
            f"{name}: factors {list(factors.down.shape)} and {list(factors.up.shape)} do not fit a projection of "
            f"{inward} inputs and {outward} outputs"
        )


def _place(factors: Factors, run: NDArray[np.float32], places: NDArray[np.int32]) -> None:
    width = run.shape[1]
    down = factors.down.float().numpy().reshape(-1, width)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused
        up = np.multiply(factors.up.float().numpy().T, np.float32(factors.scaling), order="C").reshape(-1, width)
    inward, outward = len(down) // factors.rank, len(up) // factors.rank
    for group, at in enumerate(places[: -(-factors.rank // GROUP)].tolist()):
        first, last = group * GROUP, min((group + 1) * GROUP, factors.rank)
        middle = at + (last - first) * inward
        run[at:middle] = down[first * inward : last * inward]
        run[middle : middle + (last - first) * outward] = up[first * outward : last * outward]
