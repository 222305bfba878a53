"""The project's own chain: transform coding of the cache, as image and audio codecs do it.

Keys are rotated back to position 0, and keys and values lose the mean of each channel. Where it pays, a head is turned
into its principal axes (Karhunen-Loève transform; the axes are quantised and stored too). Then one uniform quantiser
per layer with equal steps on all axes (reverse water-filling: Cover & Thomas, *Elements of Information Theory*,
§10.3.3), and rANS with a scale class per axis. Steps grow where errors matter less
(:mod:`memos.activation.codecs.sensitivity`). The first token, an attention sink with outsized norms (Xiao et al.,
arXiv:2309.17453), is kept in float16. All that the decoder needs lies in the file: nothing is learnt from other texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.chain import ChainCodec
from memos.activation.codecs.rans import RowRans, bits_of
from memos.activation.codecs.rope import likely_base, rotate
from memos.activation.codecs.sensitivity import relative_steps
from memos.activation.codecs.stages import Layout, Quantised, Quantiser, Size, floats, half, side_array

#: Tokens at the start kept as they are.
SINKS = 1
#: Step of the quantised axes, whose entries lie within ±1.
AXIS_STEP = 1 / 16
#: A head has axes of its own only if its block has at least this many tokens per channel.
_MIN_TOKENS = 2
#: Quantised axes with a smaller singular value than this magnify errors too much.
_LEAST_SINGULAR = 0.5
#: Qualities by name: KL about .003 and .02 nats per token on the bundled model.
QUALITIES = {"fine": 0.6, "compact": 1.5}


@dataclass(frozen=True, slots=True)
class Transform(Quantiser):
    """``step`` multiplies the steps of all layers: the one knob of rate against error."""

    step: float

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return planes ``kv`` ``[2 * heads * head_dim, tokens - 1]`` and ``axes``, those of the turned heads."""
        base = likely_base(layer[0])
        flat = torch.stack([rotate(layer[0], base, back=True), layer[1]])
        sinks, rest = half(flat[..., :SINKS, :]), flat[..., SINKS:, :]
        means = half(rest.sum(-2) / max(rest.shape[-2], 1))
        rest = rest - means.float()[..., None, :]
        steps = [
            max(self.step * relative * _deviation(part), 1e-6)
            for part, relative in zip(rest, relative_steps(index, layers), strict=True)
        ]
        heads = [_Head.of(head, step) for part, step in zip(rest.numpy(), steps, strict=True) for head in part]
        axes = [head.axes for head in heads if head.axes is not None]
        planes = {
            "kv": np.concatenate([head.levels for head in heads]),
            "axes": np.concatenate([np.zeros((0, layer.shape[-1]), np.int32), *axes]),
        }
        side = {
            "scalars": np.array([*steps, base], np.float32),
            "means": means.numpy(),
            "sinks": sinks.numpy(),
            "turned": np.array([head.axes is not None for head in heads], np.uint8),
        }
        return Quantised(planes, side)

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layouts of ``kv`` and ``axes``."""
        turned = side_array(side, "turned", np.uint8, (2 * size.heads,))
        if (turned > 1).any():
            raise ValueError("turned is not a flag")
        return {
            "kv": Layout(2 * size.heads * size.head_dim, max(size.tokens - SINKS, 0)),
            "axes": Layout(int(turned.sum()) * size.head_dim, size.head_dim),
        }

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        heads, tokens, dim = size
        sinks = min(tokens, SINKS)
        scalars = floats(side_array(side, "scalars", np.float32, (3,)))
        base = float(scalars[2])
        if base < 0 or (base and dim % 2):
            raise ValueError("no rotary base")
        means = floats(side_array(side, "means", np.float16, (2, heads, dim))).view(-1, 1, dim)
        steps = scalars[:2].repeat_interleave(heads).view(-1, 1, 1)
        rows = torch.from_numpy(planes["kv"]).view(2 * heads, dim, tokens - sinks)
        axes = iter(torch.from_numpy(planes["axes"]).view(-1, dim, dim))
        layer = torch.empty(2, *size)
        for head, turned in enumerate(side["turned"]):
            # Steps go to the small factor, so that each head's numbers are touched once.
            basis = next(axes) * AXIS_STEP if turned else torch.eye(dim)
            torch.addmm(
                means[head], rows[head].T, basis * steps[head], out=layer.view(2 * heads, tokens, dim)[head, sinks:]
            )
        layer[..., :sinks, :] = floats(side_array(side, "sinks", np.float16, (2, heads, sinks, dim)))
        layer[0] = rotate(layer[0], base)
        return layer


@dataclass(frozen=True, slots=True)
class _Head:
    """A quantised head: ``levels`` ``[head_dim, tokens]``, and its ``axes`` ``[axis, head_dim]`` if it has any."""

    levels: Array
    axes: Array | None

    @classmethod
    def of(cls, values: Array, step: float) -> _Head:
        """Quantise ``[tokens, head_dim]`` with or without a transform, whichever takes fewer bits."""
        plain = _levels(values, step)
        tokens, dim = values.shape
        if tokens < _MIN_TOKENS * dim:
            return cls(plain, None)
        exact = values.astype(np.float64)  # in single precision LAPACK fails on matrices of low rank
        axes = _levels(np.linalg.eigh(exact.T @ exact)[1], AXIS_STEP)
        basis = axes * AXIS_STEP
        # The stored axes are not quite orthogonal, so coordinates are solved for rather than projected.
        if np.linalg.svd(basis, compute_uv=False)[-1] < _LEAST_SINGULAR:
            return cls(plain, None)
        turned = _levels(values @ np.linalg.inv(basis).astype(np.float32), step)
        cheaper = bits_of(turned).sum() + bits_of(axes).sum() + 8 * dim < bits_of(plain).sum()
        return cls(turned, axes) if cheaper else cls(plain, None)


def _deviation(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def _levels(values: Array, step: float) -> Array:
    """Return int32 levels ``[columns, rows]`` of ``[rows, columns]``."""
    levels = np.rint(values.T / np.float32(step)).clip(-(2.0**30), 2.0**30)
    return np.ascontiguousarray(levels.astype(np.int32))


def transform_codec(quality: float | str = "fine") -> ChainCodec:
    """Return the codec; ``quality`` is ``fine``, ``compact`` or a step (smaller is better, 0.05 to 8)."""
    step = QUALITIES.get(str(quality)) or float(quality)
    if not 0.05 <= step <= 8:
        raise ValueError(f"quality is one of {', '.join(QUALITIES)} or a step from 0.05 to 8")
    spec = "transform" if quality == "fine" else f"transform:quality={quality}"
    return ChainCodec(spec, Transform(step), RowRans())
