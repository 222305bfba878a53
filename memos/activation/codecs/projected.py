"""Low-rank keys and values: principal axes of each head (MatryoshkaKV, Lin et al. 2024, arXiv:2410.14731, untrained).

The axes are those of the very cache that is stored, before RoPE, and lie in the file: nothing is learnt from other
texts. Heads of a layer share its budget of axes: those go first that explain most of the layer's variance, of keys and
of values, each relative to the whole. The first token, an attention sink, is kept in float16: its error
would count more than all others together. In memory the cache has its full width again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memos.activation.codecs.base import Array, Codec, LayerCodec, LayerDecoder
from memos.activation.codecs.rope import likely_base, rotate
from memos.activation.codecs.runs import Run, numbered, of_number, runs_of
from memos.activation.codecs.stages import Size, floats, half, side_array
from memos.activation.kv import KVShape

#: Tokens at the start kept as they are.
SINKS = 1
#: Axes are counted in eights, so that integers of any width fill bytes.
STEP = 8
#: What an axis of length 1 is multiplied with in the file.
_AXIS = 127.0


class ProjectedCodec(LayerCodec):
    """``share`` of the axes before ``inner``, whose layers are as wide as what is left."""

    def __init__(self, share: float, inner: LayerCodec) -> None:
        self._share = share
        self._inner = inner

    @property
    def spec(self) -> str:
        """``pca:SHARE`` and the codec behind."""
        name = f"pca:{self._share:g}"
        return name if self._inner.spec == "raw" else f"{name}+{self._inner.spec}"

    def encode_layer(self, layer: torch.Tensor, index: int, layers: int) -> dict[str, Array]:
        """Encode a layer. Raises ``ValueError`` for one that holds NaN, infinity or what is too large for float16."""
        parts, centred = _centred(layer.float())
        variances, axes = _principal(centred)
        ranks = _ranks(variances, self._share)
        stored = (axes * _AXIS).round().to(torch.int8)
        parts["ranks"] = ranks.numpy().astype(np.uint16)
        parts["axes"] = np.concatenate([stored[:, head, :, :rank].numpy().ravel() for head, rank in enumerate(ranks)])
        for number, run in enumerate(runs_of(ranks.tolist()) if centred.shape[2] else ()):
            basis = stored[:, run.first : run.stop, :, : run.size].float() / _AXIS
            # The stored axes are not quite orthogonal, so coordinates are solved for rather than projected.
            coordinates = centred[:, run.first : run.stop] @ torch.linalg.pinv(basis).transpose(2, 3)
            encoded = self._inner.encode_layer(coordinates.contiguous(), index, layers)
            parts |= numbered(number, encoded)
        return parts

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder."""
        return _Decoder(self._inner, Size(shape.heads, tokens, shape.head_dim))


@dataclass(frozen=True)
class _Decoder(LayerDecoder):
    inner: Codec
    size: Size

    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Decode coordinates, and go back from them."""
        heads, tokens, dim = self.size
        sinks = min(tokens, SINKS)
        if out.shape != (2, *self.size):
            raise ValueError(f"a layer of {list(self.size)} does not fit {list(out.shape)}")
        base = float(side_array(parts, "base", np.float32, (1,))[0])
        if base < 0 or (base and dim % 2):
            raise ValueError("no rotary base")
        ranks, axes = _stored_axes(parts, heads, dim)
        means = floats(side_array(parts, "means", np.float16, (2, heads, dim))).unsqueeze(2)
        found = torch.empty(2, *self.size)
        for number, run in enumerate(runs_of(ranks) if tokens > sinks else ()):
            mine, axes = axes.tensor_split([2 * dim * run.size * (run.stop - run.first)])
            basis = mine.view(-1, 2, dim, run.size).transpose(0, 1)
            found[:, run.first : run.stop, sinks:] = self._run(number, run, parts) @ basis.transpose(2, 3)
        found += means
        found[:, :, :sinks] = floats(side_array(parts, "sinks", np.float16, (2, heads, sinks, dim)))
        found[0] = rotate(found[0], base)
        out.copy_(found)

    def _run(self, number: int, run: Run, parts: Mapping[str, Array]) -> torch.Tensor:
        shape = KVShape(1, run.stop - run.first, run.size, "float32")
        tokens = self.size.tokens - SINKS
        coordinates = shape.empty(tokens)[0]
        self.inner.decoder(shape, tokens, {}, {}).decode(0, of_number(number, parts), coordinates)
        return coordinates


def _centred(layer: torch.Tensor) -> tuple[dict[str, Array], torch.Tensor]:
    """Return a float32 layer before RoPE, without its sinks and means, and what is stored of those."""
    if not torch.isfinite(layer).all():
        raise ValueError("a cache with NaN or infinity has no axes")
    base = likely_base(layer[0])
    flat = torch.stack([rotate(layer[0], base, back=True), layer[1]])
    sinks, rest = half(flat[:, :, :SINKS]), flat[:, :, SINKS:]
    means = half(rest.sum(2) / max(rest.shape[2], 1))
    parts: dict[str, Array] = {"base": np.array([base], np.float32), "sinks": sinks.numpy(), "means": means.numpy()}
    return parts, rest - means.float().unsqueeze(2)


def _stored_axes(parts: Mapping[str, Array], heads: int, dim: int) -> tuple[list[int], torch.Tensor]:
    """Return how many axes each head has, and all of them in one line. Raises ``ValueError``."""
    ranks: list[int] = side_array(parts, "ranks", np.uint16, (heads,)).astype(int).tolist()
    if not all(0 < rank <= dim for rank in ranks):
        raise ValueError("a head has no axes, or more than it can have")
    return ranks, floats(side_array(parts, "axes", np.int8, (2 * dim * sum(ranks),))) / _AXIS


def _principal(centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return variances ``[2, heads, head_dim]``, falling, and their axes ``[2, heads, head_dim, axis]``."""
    exact = centred.double()  # in single precision LAPACK fails on matrices of low rank
    variances, axes = torch.linalg.eigh(exact.transpose(2, 3) @ exact)
    return variances.flip(-1).float().clamp_min(0), axes.flip(-1).float()


def _ranks(variances: torch.Tensor, share: float) -> torch.Tensor:
    """Return how many axes each head keeps, int64 ``[heads]``: ``share`` of all, :data:`STEP` at a time."""
    _, heads, dim = variances.shape
    step = math.gcd(dim, STEP)
    gains = (variances / variances.sum((1, 2), keepdim=True).clamp_min(1e-12)).sum(0)
    blocks = gains.unflatten(1, (-1, step)).sum(-1)
    blocks[:, 0] = torch.inf  # one at least
    number = max(heads, round(share * blocks.numel()))
    best = torch.argsort(blocks.flatten(), descending=True, stable=True)[:number]
    return torch.bincount(best // blocks.shape[1], minlength=heads) * step


def projected(share: str, inner: LayerCodec) -> LayerCodec:
    """Return ``inner`` behind a projection, or itself where that leaves everything. Raises ``ValueError``."""
    kept = float(share)
    if not 0 < kept <= 1:
        raise ValueError(f"pca keeps a share of axes above 0 and at most 1, not {share}")
    return inner if kept == 1 else ProjectedCodec(kept, inner)
