"""Whether an adapter or cartridge can be used with a model: the same checks wherever one comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from memos.activation.kv import DTYPES, KVShape
from memos.errors import AdapterRefused
from memos.parametric.adapter import PROJECTIONS, Adapter, Factors
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.naming import module_name

if TYPE_CHECKING:
    from memos.runtime.loading import LoadedModel

#: What a parametric cube holds.
Trained: TypeAlias = Adapter | TrainedCartridge


@dataclass(frozen=True, slots=True)
class Frame:
    """What has to fit a model: ``sizes`` are the inputs and outputs of a projection, the same in every layer."""

    base: str
    sizes: Mapping[str, tuple[int, int]]
    kv: KVShape

    @classmethod
    def of(cls, loaded: LoadedModel) -> Frame:
        """Return the frame of a loaded model."""
        layer = loaded.model.get_submodule("model.layers.0")
        weights = {name: layer.get_parameter(f"{name}.weight") for name in PROJECTIONS}
        sizes = {name: (int(weight.shape[1]), int(weight.shape[0])) for name, weight in weights.items()}
        return cls(loaded.identity.base, sizes, loaded.shape)


def check(trained: Trained, frame: Frame, max_rank: int) -> None:
    """Raise :class:`AdapterRefused` unless it was made for the model, fits it, and holds finite numbers alone."""
    if trained.base != frame.base:
        raise AdapterRefused("it was made for another model")
    if isinstance(trained, TrainedCartridge):
        _check_cartridge(trained, frame.kv)
        return
    if not trained.factors:
        raise AdapterRefused("it changes nothing: there are no factors in it")
    for (layer, projection), factors in trained.factors.items():
        name = module_name(layer, projection)
        if projection not in frame.sizes or not 0 <= layer < frame.kv.layers:
            raise AdapterRefused(f"the model has no {name}")
        _check_shapes(name, factors, *frame.sizes[projection], max_rank)
        if not (math.isfinite(factors.scaling) and _finite(factors.down) and _finite(factors.up)):
            raise AdapterRefused(f"{name}: it holds values that are not finite")


def _check_shapes(name: str, factors: Factors, inputs: int, outputs: int, max_rank: int) -> None:
    down, up = factors.down, factors.up
    if not 0 < down.shape[0] <= max_rank:
        raise AdapterRefused(f"{name}: rank {down.shape[0]} is not within 1 to {max_rank} (MEMOS_ADAPTER_MAX_RANK)")
    if down.shape[1:] != (inputs,) or up.shape != (outputs, down.shape[0]):
        raise AdapterRefused(
            f"{name}: factors {list(down.shape)} and {list(up.shape)} do not fit a projection of {inputs} inputs and "
            f"{outputs} outputs"
        )
    if down.dtype != up.dtype or down.dtype not in DTYPES.values():
        raise AdapterRefused(f"{name}: factors of {down.dtype} and {up.dtype}; both must be one of {', '.join(DTYPES)}")


def _check_cartridge(cartridge: TrainedCartridge, kv: KVShape) -> None:
    shape = cartridge.kv.shape
    size = (kv.layers, 2, kv.heads, cartridge.tokens, kv.head_dim)
    if cartridge.kv.data.shape != size or not cartridge.tokens:
        raise AdapterRefused(f"a cartridge of shape {list(cartridge.kv.data.shape)} does not fit the model")
    if shape != KVShape(kv.layers, kv.heads, kv.head_dim, shape.dtype) or cartridge.kv.data.dtype != shape.torch_dtype:
        raise AdapterRefused("the cartridge says another shape than it has")
    if not _finite(cartridge.kv.data):
        raise AdapterRefused("the cartridge holds values that are not finite")


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all is finite: the extremes are, and NaN would be one. Eight times as fast as to look at each."""
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())
