"""How much attention each token receives, without the matrix of all weights."""

from __future__ import annotations

import torch

from memos_kernels import checks
from memos_kernels.attention import check_keys
from memos_kernels.dispatch import run


def token_scores(
    query: torch.Tensor,
    keys: torch.Tensor,
    table: torch.Tensor,
    length: int,
    *,
    scaling: float,
    causal: bool = True,
    log_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum the attention that a window of rows pays to each key of one sequence::

        score[h, t] = sum_i softmax_t(scaling * q[i, h] . k[t] + log_weights[t])

    What H2O (arXiv:2306.14048), SnapKV (arXiv:2404.14469), CAKE (arXiv:2503.12491) and ZipCache (arXiv:2405.14256) rank
    tokens by. Two passes over the keys, the first for the log-sum-exps; memory for rows × a block of keys only.

    Args:
        query: the window, ``[W, heads, D]``, after RoPE; float32, bfloat16 or float16.
        keys: pool ``[pages, kv_heads, P, D]`` of the query's dtype.
        table: int32 ``[blocks]``: the sequence's pages.
        length: the number of its keys, T, at least 1.
        scaling: factor of the scores.
        causal: whether the rows are the last ``W`` tokens of the sequence; else all rows see all keys.
        log_weights: float32 ``[pages, kv_heads, P]``, see
            :func:`memos_kernels.attention.paged_attention_prefill`.

    Returns:
        float32 ``[heads, T]``, each row adding up to ``W``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a table that names pages outside the pool.
    """
    checks.floating("query", query)
    checks.shaped("query", query, (None, None, None))
    check_keys(query, keys, log_weights)
    if length < 1 or (causal and len(query) > length):
        raise ValueError(f"{length} keys for {len(query)} rows")
    checks.shaped("table", table, (None,))
    checks.page_table("the table", table, len(keys), checks.blocks_of(length, keys.shape[2]))
    checks.same_device(query=query, keys=keys, table=table)
    result: torch.Tensor = run(
        "scores", "token_scores", query, query, keys, table, length, scaling, causal, log_weights
    )
    return result
