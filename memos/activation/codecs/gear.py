"""GEAR: quantise, then mend with a low-rank matrix and a few outliers (Kang et al. 2024, arXiv:2403.05527).

    x = outliers + quantised(x - outliers) + U V

The largest and smallest share ``outliers`` of the numbers of every vector are kept as they are; what group-wise
quantisation leaves is approximated per head by its best matrix of rank ``rank``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.groupwise import Groupwise
from memos.activation.codecs.stages import ChainCodec, Quantise
from memos.activation.codecs.uniform import part


def gear(bits: int | str = 2, rank: int | str = 4, outliers: float | str = 0.01) -> ChainCodec:
    """Return the codec; the paper's ranks and shares by default."""
    width, size, share = int(bits), int(rank), float(outliers)
    return ChainCodec(f"gear:bits={width},rank={size},outliers={share:g}", Gear(width, size, share))


class Gear(Quantise):
    """Outliers as (place, float16) pairs, group-wise codes, and float16 factors of the residual."""

    def __init__(self, bits: int, rank: int, outliers: float) -> None:
        if not 0 <= rank <= 64 or not 0 <= outliers <= 0.25:
            raise ValueError("rank goes from 0 to 64, outliers from 0 to 0.25")
        self._quantise = Groupwise(bits, 64)
        self._rank = rank
        self._outliers = outliers

    def quantise(self, layer: torch.Tensor) -> dict[str, Array]:
        """Return codes and frames, outliers, and the factors."""
        places = self._extremes(layer)
        flat = layer.reshape(-1)
        kept = flat[places].half()
        dense = flat.scatter(0, places, 0.0).view(layer.shape)
        parts = self._quantise.quantise(dense)
        if not bool(kept.isfinite().all()):
            raise ValueError("a lossy codec takes finite values within the range of float16 only")
        if places.numel():
            parts |= {"out.at": places.numpy().astype(np.uint32), "out.x": kept.numpy()}
        rest = dense - self._quantise.restore(parts, layer.shape)
        return parts | self._factors(rest.flatten(0, 1))

    def restore(self, parts: Mapping[str, Array], size: torch.Size) -> torch.Tensor:
        """Return the layer."""
        _, heads, tokens, head_dim = size
        out = self._quantise.restore(parts, size)
        rank = self._rank_of(tokens, head_dim)
        if rank:
            left = torch.from_numpy(part(parts, "lr.u", np.float16, 2 * heads * tokens * rank)).float()
            right = torch.from_numpy(part(parts, "lr.v", np.float16, 2 * heads * rank * head_dim)).float()
            mended = torch.bmm(left.view(-1, tokens, rank), right.view(-1, rank, head_dim))
            out += mended.view(size)
        if "out.at" in parts:
            _put_outliers(parts, out)
        return out

    def _extremes(self, layer: torch.Tensor) -> torch.Tensor:
        """Return the places, in the flattened layer, of each vector's outliers: key channels and value tokens."""
        places = torch.arange(layer.numel()).view(layer.shape)
        chosen = []
        for lines, index in ((layer[0].transpose(1, 2), places[0].transpose(1, 2)), (layer[1], places[1])):
            count = int(self._outliers * lines.shape[-1])
            for largest in (True, False) if count else ():
                at = lines.topk(count, dim=-1, largest=largest).indices
                chosen.append(index.gather(-1, at).reshape(-1))
        return torch.cat(chosen).unique() if chosen else torch.empty(0, dtype=torch.int64)

    def _rank_of(self, tokens: int, head_dim: int) -> int:
        return min(self._rank, tokens, head_dim)

    def _factors(self, rest: torch.Tensor) -> dict[str, Array]:
        """Return the best factors of that rank of matrices ``[heads, tokens, head_dim]``."""
        rank = self._rank_of(*rest.shape[1:])
        if not rank:
            return {}
        _, vectors = torch.linalg.eigh(rest.transpose(1, 2) @ rest)  # the right singular vectors, smallest first
        right = vectors[:, :, -rank:]
        left = rest @ right
        return {
            "lr.u": left.half().reshape(-1).numpy(),
            "lr.v": right.transpose(1, 2).half().reshape(-1).numpy(),
        }


def _put_outliers(parts: Mapping[str, Array], out: torch.Tensor) -> None:
    at = parts["out.at"]
    places = torch.from_numpy(part(parts, "out.at", np.uint32, at.size).astype(np.int64))
    if int(places.max()) >= out.numel():
        raise ValueError("an outlier lies outside the layer")
    out.view(-1)[places] = torch.from_numpy(part(parts, "out.x", np.float16, at.size)).float()
