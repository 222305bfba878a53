"""Every part to its place: one private cache of head and parts, the keys turned to their new positions."""

from __future__ import annotations

from typing import Any

import torch

from memos.activation.compose.drift import Drift
from memos.activation.compose.parts import Part, Parts, Span
from memos.runtime.families import check_rotation
from memos.runtime.loading import LoadedModel
from memos_kernels import delta_angles, rotate_keys


def frequencies_of(loaded: LoadedModel) -> torch.Tensor:
    """Return the model's rotary frequencies, ``[head_dim / 2]``, which no length changes.

    Raises :class:`ModelUnsupported` for a model whose keys cannot be moved by turning them.
    """
    check_rotation(loaded.model.config)
    model: Any = loaded.model.base_model  # a module of whatever family
    frequencies: torch.Tensor = model.rotary_emb.inv_freq
    return frequencies.detach().cpu()


def assemble(loaded: LoadedModel, parts: Parts, drift: Drift | None) -> torch.Tensor:
    """Return the composed cache ``[layers, 2, heads, tokens, head_dim]`` on the CPU, in memory of its own.

    The head and the first part stay as they are, values too; later keys are turned by as far as their part moved
    (RoFormer, arXiv:2104.09864), in float32, rounded once. With ``drift``, what the text before them does to keys and
    values on average is added. Raises :class:`KVMiss` where a cache cannot be read.
    """
    frequencies = frequencies_of(loaded)
    cache = parts.shape.empty(len(parts.tokens))
    first = parts.parts[0].kv
    for layer in range(parts.shape.layers):
        for side, rows in enumerate(first.layer(layer)):
            cache[layer, side, :, : first.tokens] = rows
    for part, span in parts.moved():
        _place(cache, part, span, len(parts.head), frequencies, drift)
    return cache


def _place(
    cache: torch.Tensor, part: Part, span: Span, head: int, frequencies: torch.Tensor, drift: Drift | None
) -> None:
    """Write a part into its span of a cache."""
    cosine, sine = delta_angles(torch.tensor([head]), torch.tensor([span.first]), frequencies)
    offsets = None if drift is None else drift.at(head, len(span), frequencies)
    for layer in range(len(cache)):
        keys, values = (rows[:, head:].float() for rows in part.kv.layer(layer))
        if offsets is not None:
            keys, values = keys + offsets[layer, 0], values + offsets[layer, 1]
        cache[layer, 0, :, span.first : span.last] = rotate_keys(keys.contiguous(), cosine, sine)
        cache[layer, 1, :, span.first : span.last] = values
