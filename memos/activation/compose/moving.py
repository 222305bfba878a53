"""Every part to its place: one private cache of head and parts, the keys turned to their new positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memos.activation.compose.drift import Drift
from memos.activation.compose.parts import Parts, Span
from memos.activation.kv import KVSource
from memos.runtime.families import check_rotation
from memos.runtime.loading import LoadedModel
from memos_kernels import delta_angles, rotate_keys


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a cache from ``skip`` on, whose keys are those of the positions ``first ..``."""

    kv: KVSource
    skip: int
    first: int


def frequencies_of(loaded: LoadedModel) -> torch.Tensor:
    """Return the model's rotary frequencies, ``[head_dim / 2]``, which no length changes.

    Raises :class:`ModelUnsupported` for a model whose keys cannot be moved by turning them.
    """
    check_rotation(loaded.model.config)
    model: Any = loaded.model.base_model  # a module of whatever family
    frequencies: torch.Tensor = model.rotary_emb.inv_freq
    return frequencies.detach().cpu()


def assemble(
    loaded: LoadedModel, parts: Parts, drift: Drift | None, instead: Mapping[int, Rows] | None = None
) -> torch.Tensor:
    """Return the composed cache ``[layers, 2, heads, tokens, head_dim]`` on the CPU, in memory of its own.

    The head and the first part stay as they are, values too; later keys are turned by as far as their part moved
    (RoFormer, arXiv:2104.09864), in float32, rounded once. With ``drift``, what the text before them does to keys and
    values on average is added. ``instead`` are rows that stand for moved parts, by number. Raises :class:`KVMiss` where
    a cache cannot be read.
    """
    frequencies = frequencies_of(loaded)
    cache = parts.shape.empty(len(parts.tokens))
    first = parts.parts[0].kv
    for layer in range(parts.shape.layers):
        for side, rows in enumerate(first.layer(layer)):
            cache[layer, side, :, : first.tokens] = rows
    head = len(parts.head)
    for number, (part, span) in enumerate(parts.moved(), 1):
        source = (instead or {}).get(number, Rows(part.kv, head, head))
        _place(cache, source, span, frequencies, drift)
    return cache


def _place(cache: torch.Tensor, rows: Rows, span: Span, frequencies: torch.Tensor, drift: Drift | None) -> None:
    """Write rows into a span of a cache."""
    cosine, sine = delta_angles(torch.tensor([rows.first]), torch.tensor([span.first]), frequencies)
    offsets = None if drift is None else drift.at(rows.first, len(span), frequencies)
    for layer in range(len(cache)):
        keys, values = (side[:, rows.skip :].float() for side in rows.kv.layer(layer))
        if offsets is not None:
            keys, values = keys + offsets[layer, 0], values + offsets[layer, 1]
        cache[layer, 0, :, span.first : span.last] = rotate_keys(keys.contiguous(), cosine, sine)
        cache[layer, 1, :, span.first : span.last] = values
