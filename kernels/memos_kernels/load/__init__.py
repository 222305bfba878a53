"""The load path: from quantised pages to a cache in use, in one pass over memory."""

from __future__ import annotations

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run
from memos_kernels.quantise import QuantisedPages, check_pool, no_turn
from memos_kernels.rotate import check_angles


def dequant_rotate_gather(
    source: QuantisedPages,
    table: torch.Tensor,
    tokens: int,
    out: torch.Tensor,
    out_table: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Dequantise pages, turn the keys to their new positions and write both to other pages, in place in ``out``::

        x = q * step + least                      (float32)
        k[:D/2], k[D/2:] = k[:D/2] cos - k[D/2:] sin, k[D/2:] cos + k[:D/2] sin

    rounded once to the dtype of ``out``. Reads the codes and ranges and writes the result, nothing else.

    Args:
        source: the pool of quantised pages.
        table: int32 ``[L, blocks]``: the pages of each layer, in the order of tokens.
        tokens: how many tokens, T.
        out: ``[pages, heads, P', head_dim]``, float32, bfloat16 or float16; ``P'`` may differ from the source's. A
            contiguous cache ``[L, 2, heads, T, head_dim]`` is, as ``cache.flatten(0, 1)``, ``2 L`` pages of T tokens.
        out_table: int32 ``[L, 2, blocks']``: the pages to write for keys and for values, none of them twice.
        angles: cosine and sine of the turn (:func:`memos_kernels.rotate.delta_angles`); none: keys stay as they are.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a table that names pages outside its pool.
    """
    layers = len(table)
    checks.floating("out", out)
    checks.pages("out", out, (None, source.keys.shape[1], None, source.key_ranges.shape[3]))
    check_pool(source, table, layers, tokens)
    if out_table.dim() != 3 or out_table.shape[:2] != (layers, 2):
        raise ValueError(f"out_table has shape {list(out_table.shape)}; [{layers}, 2, blocks] is needed")
    checks.page_table("out_table", out_table, len(out), checks.blocks_of(tokens, out.shape[2]))
    turn = angles or no_turn(out)
    check_angles(*turn, tokens, out.shape[3])
    checks.same_device(source=source.keys, table=table, out=out, out_table=out_table, cosine=turn[0])
    run("load", "dequant_rotate_gather", out, source, table, tokens, out, out_table, *turn, angles is not None)
