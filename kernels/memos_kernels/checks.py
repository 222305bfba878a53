"""Checks of arguments that all operations share. Kernels address memory themselves, so nothing may slip through."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def floating(name: str, tensor: torch.Tensor) -> None:
    """Raise ``ValueError`` unless a tensor is float32, bfloat16 or float16."""
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{name} is {tensor.dtype}; float32, bfloat16 or float16 is needed")


def shaped(name: str, tensor: torch.Tensor, shape: Sequence[int | None]) -> None:
    """Raise ``ValueError`` unless a tensor is contiguous and has this shape; None stands for any length."""
    have = tensor.shape
    if len(have) != len(shape) or any(
        want is not None and want != size for want, size in zip(shape, have, strict=True)
    ):
        raise ValueError(f"{name} has shape {list(have)}; {['any' if n is None else n for n in shape]} is needed")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous")


def pages(name: str, pool: torch.Tensor, shape: Sequence[int | None]) -> None:
    """Raise ``ValueError`` unless a pool has this shape (:func:`shaped`) and its pages hold tokens, in some heads."""
    shaped(name, pool, shape)
    if not pool.shape[1] or not pool.shape[2]:
        raise ValueError(f"{name} has shape {list(pool.shape)}: its pages hold no tokens")


def page_table(name: str, table: torch.Tensor, pages: int | None, blocks: int) -> None:
    """Raise ``ValueError`` unless a page table is int32 with at least ``blocks`` columns of pages that exist.

    Entries are looked at on the CPU only: on another device that would wait for it; and not if ``pages`` is None, where
    the form itself does. Entries after ``blocks`` may be anything.
    """
    if table.dtype != torch.int32:
        raise ValueError(f"{name} is {table.dtype}; int32 is needed")
    if table.shape[-1] < blocks:
        raise ValueError(f"{name} has {table.shape[-1]} blocks; {blocks} are needed")
    if pages is not None and table.is_cpu and blocks and table.numel():
        used = table.numpy()[..., :blocks]
        if used.min() < 0 or used.max() >= pages:
            raise ValueError(f"{name} names pages outside the pool of {pages}")


def same_device(**tensors: torch.Tensor) -> None:
    """Raise ``ValueError`` unless all tensors are on one device."""
    first = next(iter(tensors.values())).device
    for tensor in tensors.values():
        if tensor.device != first:
            places = ", ".join(sorted({str(each.device) for each in tensors.values()}))
            raise ValueError(f"{', '.join(tensors)} must be on one device, not on {places}")


def blocks_of(tokens: int, page_tokens: int) -> int:
    """Return how many pages ``tokens`` tokens fill."""
    return -(-tokens // page_tokens)
