"""GEAR: quantise, then mend with a low-rank matrix and a few outliers (Kang et al. 2024, arXiv:2403.05527).

    x = outliers + quantised(x - outliers) + U V

The largest and smallest share ``outliers`` of the numbers of every vector (key channel, value token) are kept as they
are; what group-wise quantisation leaves is approximated per head by its best matrix of rank ``rank``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.bitpack import Bitpack
from memos.activation.codecs.chain import ChainCodec
from memos.activation.codecs.groupwise import Groupwise
from memos.activation.codecs.stages import Layout, Quantised, Quantiser, Size, floats, half, side_array

_BITS, _RANK, _OUTLIERS = 2, 4, 0.01


@dataclass(frozen=True, slots=True)
class Gear(Quantiser):
    """Outliers as places and float16 numbers, ``base`` for the rest, float16 factors of rank ``rank`` for its error."""

    base: Groupwise
    rank: int
    outliers: float

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return the planes of ``base`` and, beside its frames, outliers and factors."""
        places = self._extremes(layer)
        flat = layer.reshape(-1)
        dense = flat.scatter(0, places, 0.0).view(layer.shape)
        quantised = self.base.quantise(dense, index, layers)
        error = dense - self.base.dequantise(quantised.planes, quantised.side, Size(*layer.shape[1:]))
        side: dict[str, Array] = {
            "outlier.at": places.numpy().astype(np.uint32),
            "outlier.x": half(flat[places]).numpy(),
            **self._factors(error.flatten(0, 1)),
        }
        return Quantised(quantised.planes, quantised.side | side)

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layouts of ``base``."""
        return self.base.layout(side, size)

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        heads, tokens, dim = size
        layer = self.base.dequantise(planes, side, size)
        rank = self._rank_of(tokens, dim)
        if rank:
            left = floats(side_array(side, "left", np.float16, (2 * heads, tokens, rank)))
            right = floats(side_array(side, "right", np.float16, (2 * heads, rank, dim)))
            layer += torch.bmm(left, right).view(layer.shape)
        _put_outliers(side, layer)
        return layer

    def _extremes(self, layer: torch.Tensor) -> torch.Tensor:
        """Return the places of each vector's outliers in the flattened layer, ascending."""
        places = torch.arange(layer.numel()).view(layer.shape)
        chosen = []
        for lines, index in ((layer[0].transpose(1, 2), places[0].transpose(1, 2)), (layer[1], places[1])):
            count = int(self.outliers * lines.shape[-1])
            for largest in (True, False) if count else ():
                at = lines.topk(count, dim=-1, largest=largest).indices
                chosen.append(index.gather(-1, at).reshape(-1))
        return torch.cat(chosen).unique() if chosen else torch.empty(0, dtype=torch.int64)

    def _rank_of(self, tokens: int, dim: int) -> int:
        return min(self.rank, tokens, dim)

    def _factors(self, error: torch.Tensor) -> dict[str, Array]:
        """Return the best factors of that rank of matrices ``[heads, tokens, head_dim]``."""
        rank = self._rank_of(*error.shape[1:])
        if not rank:
            return {}
        exact = error.double()  # in single precision LAPACK fails on matrices of low rank
        _, vectors = torch.linalg.eigh(exact.transpose(1, 2) @ exact)  # right singular vectors, smallest first
        right = vectors[:, :, -rank:].float()
        return {"left": half(error @ right).numpy(), "right": half(right.transpose(1, 2).contiguous()).numpy()}


def _put_outliers(side: Mapping[str, Array], layer: torch.Tensor) -> None:
    count = len(side.get("outlier.at", ()))
    places = side_array(side, "outlier.at", np.uint32, (count,)).astype(np.int64)
    if count and int(places.max()) >= layer.numel():
        raise ValueError("an outlier lies outside the layer")
    layer.view(-1)[torch.from_numpy(places)] = floats(side_array(side, "outlier.x", np.float16, (count,)))


def gear_codec(bits: int | str = _BITS, rank: int | str = _RANK, outliers: float | str = _OUTLIERS) -> ChainCodec:
    """Return the codec; ranks and shares of the paper by default."""
    width, size, share = int(bits), int(rank), float(outliers)
    if width not in (2, 3, 4, 8) or not 0 <= size <= 64 or not 0 <= share <= 0.25:
        raise ValueError("bits is 2, 3, 4 or 8, rank goes from 0 to 64, outliers from 0 to 0.25")
    plain = (width, size, share) == (_BITS, _RANK, _OUTLIERS)
    spec = "gear" if plain else f"gear:bits={width},rank={size},outliers={share:g}"
    return ChainCodec(spec, Gear(Groupwise(width, 64), size, share), Bitpack())
