"""What PEFT calls the tensors of an adapter, and back: files here and PEFT directories use the same names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from memos.errors import AdapterRefused
from memos.parametric.adapter import PROJECTIONS, Adapter, Factors

_NAME = re.compile(r"base_model\.model\.(model\.layers\.(0|[1-9][0-9]{0,4})\.([a-z_.]+))\.lora_([AB])\.weight")


def module_name(layer: int, projection: str) -> str:
    """Return the path of a module in a model, such as ``model.layers.3.mlp.down_proj``."""
    return f"model.layers.{layer}.{projection}"


def tensors_of(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return the factors of an adapter by PEFT's names: ``lora_A`` is ``[rank, in]``, ``lora_B`` is ``[out, rank]``."""
    found = {}
    for (layer, projection), factors in adapter.sorted():
        start = f"base_model.model.{module_name(layer, projection)}"
        found[f"{start}.lora_A.weight"] = factors.down.contiguous()
        found[f"{start}.lora_B.weight"] = factors.up.contiguous()
    return found


def adapter_of(base: str, tensors: Mapping[str, torch.Tensor], scaling: Callable[[str, int], float]) -> Adapter:
    """Return the adapter that named tensors are; ``scaling`` says it of a module's path and rank.

    Raises :class:`AdapterRefused` for tensors that are no factors of a projection, and for one without its partner.
    """
    pairs: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or match[3] not in PROJECTIONS:
            raise AdapterRefused(f"{name!r} is none of what the runtime covers: {', '.join(PROJECTIONS)}")
        pairs.setdefault((int(match[2]), match[3]), {})[match[4]] = tensor
    factors = {place: _factors(module_name(*place), pair, scaling) for place, pair in pairs.items()}
    return Adapter(base, factors)


def _factors(module: str, pair: Mapping[str, torch.Tensor], scaling: Callable[[str, int], float]) -> Factors:
    if len(pair) != 2:
        raise AdapterRefused(f"{module} has lora_{next(iter(pair))} without its partner")
    if pair["A"].ndim != 2 or pair["B"].ndim != 2:
        raise AdapterRefused(f"{module} has factors that are not matrices")
    return Factors(pair["A"], pair["B"], scaling(module, pair["A"].shape[0]))
