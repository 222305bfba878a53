"""Quantisation in plain PyTorch, one layer at a time."""

from __future__ import annotations

import torch

from memos_kernels.checks import blocks_of
from memos_kernels.quantise import ErrorStatistics, QuantisedPages
from memos_kernels.rotate.reference import turned


def quantise_pages(
    cache: torch.Tensor,
    into: QuantisedPages,
    table: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    turn: bool,
) -> ErrorStatistics:
    """See :func:`memos_kernels.quantise.quantise_pages`."""
    size, tokens = into.page_tokens, cache.shape[3]
    blocks = blocks_of(tokens, size)
    real = (torch.arange(blocks * size, device=cache.device) < tokens).view(blocks, 1, size, 1)
    largest, squared = [], []
    for layer, row in zip(cache, table, strict=True):
        pages = row[:blocks].long()
        keys = turned(layer[0].float(), cosine, sine) if turn else layer[0].float()
        for codes, ranges, rows, along in (
            (into.keys, into.key_ranges, keys, 2),
            (into.values, into.value_ranges, layer[1].float(), 3),
        ):
            paged = _paged(rows, blocks, size)
            quantised, least, step = _affine(paged, real, along, into.bits)
            codes[pages] = packed(quantised * real, into.bits)
            ranges[pages] = torch.stack([least, step], 2).squeeze(3 if along == 2 else 4).half()
            error = ((paged - (quantised * step + least)) * real).abs()
            largest.append(_finite_or_infinite(error, least, step))
            squared.append(error.square().sum() / rows.numel())
    return ErrorStatistics(torch.stack(largest).view(-1, 2), torch.stack(squared).view(-1, 2))


def packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes ``[.., head_dim]`` as bytes ``[.., head_dim * bits / 8]``."""
    whole = codes.to(torch.uint8)
    if bits == 8:
        return whole
    low, high = whole.chunk(2, dim=-1)
    return low | high << 4


def unpacked(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Undo :func:`packed`, as float32."""
    return (codes if bits == 8 else torch.cat([codes & 15, codes >> 4], dim=-1)).float()


def _paged(rows: torch.Tensor, blocks: int, size: int) -> torch.Tensor:
    """Return ``[heads, T, head_dim]`` as ``[blocks, heads, size, head_dim]``, with zeros after the last token."""
    heads, tokens, head_dim = rows.shape
    room = rows.new_zeros(heads, blocks * size, head_dim)
    room[:, :tokens] = rows
    return room.view(heads, blocks, size, head_dim).transpose(0, 1)


def _affine(
    paged: torch.Tensor, real: torch.Tensor, along: int, bits: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, least values and steps (rounded to float16) as float32, groups running along an axis."""
    top = 2**bits - 1
    least = paged.masked_fill(~real, float("inf")).amin(along, keepdim=True)
    most = paged.masked_fill(~real, float("-inf")).amax(along, keepdim=True)
    empty = least > most
    least, most = least.masked_fill(empty, 0.0), most.masked_fill(empty, 0.0)
    step = ((most - least) / top).half().float()
    least = least.half().float()
    scaled = torch.where(step > 0, (paged - least) / step, 0.0)
    return (scaled + 0.5).floor().clamp_(0, top), least, step


def _finite_or_infinite(error: torch.Tensor, least: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Return the largest error; infinite if a range is beyond float16, or not a number."""
    fine = torch.isfinite(least).all() & torch.isfinite(step).all() & torch.isfinite(error).all()
    return torch.where(fine, error.amax() if error.numel() else error.new_zeros(()), float("inf"))
