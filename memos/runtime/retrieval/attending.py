"""Attention to the chosen pages of a cache, exact over those.

scores of the pages, by its summary -> for each row and head of keys, the best of them -> attention over their tokens

The cache stays where it is. On the model's own device its tokens are read in place: to the kernel each is a page of
one, and every row and head of keys a sequence with a table of its own. From anywhere else, what some row of the forward
has chosen is brought over.
"""

from __future__ import annotations

import torch

from memos.activation.kv import KVSource
from memos.runtime.retrieval.base import Index
from memos.runtime.retrieval.indexes import index_of
from memos.runtime.retrieval.names import FIRST, LAST, PAGE, Retrieval
from memos_kernels import paged_attention_decode

#: Rows whose tables are in memory at once.
TOGETHER = 64


def attend_chosen(
    query: torch.Tensor,
    source: KVSource,
    layer: int,
    kept: tuple[torch.Tensor, torch.Tensor],
    retrieval: Retrieval,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what rows ``[n, heads, D]`` find in the pages they choose, and log-sum-exps ``[n, heads]``.

    ``kept`` are keys and values ``[kv_heads, tokens, D]`` of a layer of ``source``, on any device.
    """
    keys, values = kept
    index = index_of(source, retrieval.method, layer, keys, query.device)
    parts = []
    for rows in query.split(TOGETHER):
        scores = page_scores(index, rows, keys.shape[0], scaling)
        pages = best(scores, retrieval.pages(keys.shape[1])).transpose(0, 1)
        parts.append(attend_pages(rows, keys, values, pages, scaling))
    out, lse = zip(*parts, strict=True)
    return torch.cat(out), torch.cat(lse)


def page_scores(index: Index, query: torch.Tensor, kv_heads: int, scaling: float) -> torch.Tensor:
    """Return what pages promise rows ``[n, heads, D]``, ``[kv_heads, n, pages]``."""
    grouped = query.float().unflatten(1, (kv_heads, -1)).permute(1, 0, 2, 3)  # [kv_heads, n, group, D]
    scores = index.scores(grouped.flatten(1, 2) * scaling)
    return of_group(scores.view(*grouped.shape[:3], -1))


def of_group(scores: torch.Tensor) -> torch.Tensor:
    """Return what pages are worth to the query heads that share keys, ``[.., pages]`` of ``[.., group, pages]``.

    As much as to the head that wants a page most: it is fetched for all of them, and what one head looks for often
    means nothing to its neighbours, whose scores would drown it in a sum.
    """
    return scores.amax(-2)


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return which pages score highest, int64 ``[.., count]``, rising, of ``[.., pages]``: with the first and last."""
    scores[..., :FIRST] = torch.inf
    scores[..., -LAST:] = torch.inf
    return scores.topk(count, sorted=False).indices.sort().values


def attend_pages(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from rows ``[n, heads, D]`` to pages int64 ``[n, kv_heads, m]`` of keys and values ``[kv_heads, T, D]``.

    The pages rise; the last is the last there is, and may not be full. Returns the output like ``query`` and
    log-sum-exps ``[n, heads]``.
    """
    kv_heads, tokens, head_dim = keys.shape
    count = PAGE * pages.shape[2] - -tokens % PAGE
    heads = tokens * torch.arange(kv_heads, device=pages.device).view(-1, 1, 1)
    places = pages.unsqueeze(-1) * PAGE + heads + torch.arange(PAGE, device=pages.device)
    places = places.flatten(2)[:, :, :count].flatten(0, 1)  # [n * kv_heads, tokens]
    flat = keys.reshape(-1, head_dim), values.reshape(-1, head_dim)
    if keys.device != query.device:
        flat, places = _brought(flat, places.to(keys.device), query.device)
    table = places.to(torch.int32).unsqueeze(1).expand(-1, 2, -1).contiguous()
    out, lse = paged_attention_decode(
        query.view(len(table), -1, head_dim),
        flat[0].view(-1, 1, 1, head_dim),
        flat[1].view(-1, 1, 1, head_dim),
        table,
        torch.full((len(table),), count, dtype=torch.int32, device=query.device),
        scaling=scaling,
    )
    return out.view_as(query), lse.view(query.shape[:2])


def _brought(
    flat: tuple[torch.Tensor, torch.Tensor], places: torch.Tensor, device: torch.device
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what is at ``places`` of keys and values ``[.., D]`` on a device, each token once, and where it is now."""
    chosen = torch.zeros(len(flat[0]), dtype=torch.bool)
    chosen[places] = True
    moved = [part[chosen].to(device) for part in flat]
    return (moved[0], moved[1]), (chosen.cumsum(0) - 1)[places].to(device)
