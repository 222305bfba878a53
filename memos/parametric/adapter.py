"""A LoRA adapter in memory, as every part of the parametric tier passes it on (LoRA: arXiv:2106.09685)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

#: The projections of a decoder layer of the Llama family that an adapter may change, in the order they run.
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FEED_FORWARD = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PROJECTIONS = ATTENTION + FEED_FORWARD


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to one projection ``W x``: ``scaling * up @ (down @ x)``.

    ``down`` is ``[rank, in]`` (LoRA's A), ``up`` is ``[out, rank]`` (LoRA's B), of one dtype, contiguous, in host
    memory; ``scaling`` is alpha / r, or alpha / sqrt(r) of rsLoRA.
    """

    down: torch.Tensor
    up: torch.Tensor
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """The number of rank rows."""
        return int(self.down.shape[0])

    @property
    def bytes(self) -> int:
        """The size of both factors."""
        return self.down.nbytes + self.up.nbytes

    def delta(self) -> torch.Tensor:
        """Return the float32 change of the weight, ``[out, in]``."""
        return self.scaling * (self.up.float() @ self.down.float())


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    ``factors`` maps ``(layer, projection)``, such as ``(3, "mlp.down_proj")``, to what is added there; ``base`` is
    the :attr:`~memos.activation.fingerprint.ModelIdentity.base` of the model it was made for.
    """

    base: str
    factors: Mapping[tuple[int, str], Factors]

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over base, names, shapes, dtypes, scalings and bytes: the identity of the adapter."""
        whole = hashlib.sha256(self.base.encode())
        for (layer, projection), one in self.sorted():
            head = [layer, projection, list(one.down.shape), list(one.up.shape), str(one.down.dtype), one.scaling]
            whole.update(json.dumps(head).encode())
            for tensor in (one.down, one.up):
                whole.update(memoryview(tensor.contiguous().view(torch.uint8).numpy()))  # type: ignore[arg-type]
        return whole.hexdigest()

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max((one.rank for one in self.factors.values()), default=0)

    @property
    def bytes(self) -> int:
        """The size of all factors."""
        return sum(one.bytes for one in self.factors.values())

    def sorted(self) -> Iterator[tuple[tuple[int, str], Factors]]:
        """Yield the factors layer by layer, in the order of :data:`PROJECTIONS`."""
        yield from sorted(self.factors.items(), key=lambda item: (item[0][0], _place(item[0][1])))


def _place(projection: str) -> tuple[int, str]:
    """Return what sorts projections as they run, unknown ones last."""
    return PROJECTIONS.index(projection) if projection in PROJECTIONS else len(PROJECTIONS), projection
