"""The load path in plain PyTorch, one layer at a time."""

from __future__ import annotations

import torch

from memos_kernels.checks import blocks_of
from memos_kernels.pages.reference import scatter_pages
from memos_kernels.quantise import QuantisedPages
from memos_kernels.quantise.reference import unpacked
from memos_kernels.rotate.reference import turned


def dequant_rotate_gather(
    source: QuantisedPages,
    table: torch.Tensor,
    tokens: int,
    out: torch.Tensor,
    out_table: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    turn: bool,
) -> None:
    """See :func:`memos_kernels.load.dequant_rotate_gather`."""
    blocks = blocks_of(tokens, source.page_tokens)
    for row, targets in zip(table, out_table, strict=True):
        pages = row[:blocks].long()
        least, step = source.key_ranges[pages].float().unbind(2)
        keys = unpacked(source.keys[pages], source.bits) * step.unsqueeze(2) + least.unsqueeze(2)
        least, step = source.value_ranges[pages].float().unbind(2)
        values = unpacked(source.values[pages], source.bits) * step.unsqueeze(3) + least.unsqueeze(3)
        keys, values = _contiguous(keys, tokens), _contiguous(values, tokens)
        keys = turned(keys, cosine, sine) if turn else keys
        scatter_pages(torch.stack([keys, values]).to(out.dtype), [out, out], targets)


def _contiguous(paged: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return ``[blocks, heads, size, head_dim]`` as ``[heads, tokens, head_dim]``."""
    return paged.transpose(0, 1).flatten(1, 2)[:, :tokens]
