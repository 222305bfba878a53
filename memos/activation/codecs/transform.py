"""The project's own chain: transform coding of the cache, as image and audio codecs do it.

Keys are rotated back to position 0 and both keys and values lose the mean of each channel. Where it pays, a head is
rotated into its principal axes (Karhunen-Loève transform; the axes are quantised and stored too). Then one uniform
quantiser per layer, with equal steps on all axes (reverse water-filling: Cover & Thomas, *Elements of Information
Theory*, §10.3.3), and rANS with a scale class per axis. The steps grow where errors matter less
(:mod:`memos.activation.codecs.sensitivity`); they are stored, so only the encoder knows how they were chosen. The
first token, an attention sink with outsized norms (Xiao et al., arXiv:2309.17453), is kept in float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from memos.activation.codecs.base import Array
from memos.activation.codecs.rans import bits_of
from memos.activation.codecs.rope import Frequencies, rotate
from memos.activation.codecs.sensitivity import step_profile
from memos.activation.codecs.stages import Layout, Quantised, Quantiser, Size, floats, half, side_array

#: Tokens at the start kept as they are.
SINKS = 1
#: Step of the quantised axes, whose entries lie within ±1.
AXIS_STEP = 1 / 32
#: A head has axes of its own only if its block has at least this many tokens per channel.
_MIN_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Transform(Quantiser):
    """``step``: the quantiser's step in standard deviations of an average layer, the one knob of rate against error.

    ``frequencies``: the model's rotary frequencies, or none.
    """

    step: float
    frequencies: Frequencies

    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Return planes ``kv`` ``[2 * heads * head_dim, tokens - 1]`` and ``axes``, the transformed heads' axes."""
        flat = torch.stack([rotate(layer[0], self.frequencies, back=True), layer[1]])
        sinks, rest = half(flat[..., :SINKS, :]), flat[..., SINKS:, :]
        means = half(rest.mean(-2)) if rest.shape[-2] else half(torch.zeros_like(flat[..., 0, :]))
        rest = (rest - means.float()[..., None, :]).flatten(0, 1)
        steps = step_profile(index, layers) * self.step
        per_head = torch.tensor(steps).repeat_interleave(layer.shape[1]).float()
        heads = [_Head.of(head, float(step)) for head, step in zip(rest, per_head, strict=True)]
        axes = [head.axes for head in heads if head.axes is not None]
        side = {
            "sink": sinks.numpy(),
            "mean": means.numpy(),
            "step": np.array(steps, np.float32),
            "transformed": np.array([head.axes is not None for head in heads], np.uint8),
        }
        dim = layer.shape[-1]
        planes = {
            "kv": np.concatenate([head.levels for head in heads]),
            "axes": np.concatenate(axes) if axes else np.zeros((0, dim), np.int32),
        }
        return Quantised(planes, side)

    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the layouts of ``kv`` and ``axes``."""
        transformed = side_array(side, "transformed", np.uint8, (2 * size.heads,))
        if (transformed > 1).any():
            raise ValueError("transformed is not a flag")
        return {
            "kv": Layout(2 * size.heads * size.head_dim, max(size.tokens - SINKS, 0)),
            "axes": Layout(int(transformed.sum()) * size.head_dim, size.head_dim),
        }

    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer."""
        heads, tokens, dim = size
        sinks = min(tokens, SINKS)
        steps = floats(side_array(side, "step", np.float32, (2,)))
        levels = torch.from_numpy(planes["kv"]).view(2, heads, dim, tokens - sinks)
        values = (levels * steps[:, None, None, None]).transpose(2, 3).flatten(0, 1)
        transformed = torch.from_numpy(side["transformed"]).bool()
        axes = torch.from_numpy(planes["axes"]).view(-1, dim, dim) * AXIS_STEP
        layer = torch.empty(2, heads, tokens, dim)
        rest = layer.flatten(0, 1)[:, sinks:]
        rest[~transformed] = values[~transformed]
        rest[transformed] = values[transformed] @ axes
        layer[..., sinks:, :] += floats(side_array(side, "mean", np.float16, (2, heads, dim)))[..., None, :]
        layer[..., :sinks, :] = floats(side_array(side, "sink", np.float16, (2, heads, sinks, dim)))
        layer[0] = rotate(layer[0], self.frequencies)
        return layer


@dataclass(frozen=True, slots=True)
class _Head:
    """A quantised head: ``levels`` ``[head_dim, tokens]``, and its ``axes`` ``[axis, head_dim]`` if it has any."""

    levels: Array
    axes: Array | None

    @classmethod
    def of(cls, values: torch.Tensor, step: float) -> _Head:
        """Quantise ``[tokens, head_dim]`` with or without a transform, whichever takes fewer bits."""
        plain = _levels(values, step)
        tokens, dim = values.shape
        if tokens < _MIN_TOKENS * dim:
            return cls(plain, None)
        vectors = torch.linalg.eigh(values.T @ values)[1].T
        axes = _levels(vectors.T, AXIS_STEP)
        # The stored axes are not quite orthogonal, so the coordinates are solved for rather than projected.
        turned = _levels(torch.linalg.solve(torch.from_numpy(axes).float() * AXIS_STEP, values, left=False), step)
        cost = bits_of(turned).sum() + bits_of(axes).sum() + 8 * dim
        return cls(turned, axes) if cost < bits_of(plain).sum() else cls(plain, None)


def _levels(values: torch.Tensor, step: float) -> Array:
    """Return int32 levels ``[columns, rows]`` of ``[rows, columns]``."""
    levels: Array = (values.T / step).round().clamp(-(2.0**30), 2.0**30).to(torch.int32).contiguous().numpy()
    return levels
