"""What methods promise of the pages they summarise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos.runtime.retrieval import names
from memos.runtime.retrieval.base import Index, paged
from memos.runtime.retrieval.methods import METHODS
from memos.runtime.retrieval.names import PAGE

ALL = (*names.METHODS, *names.CONTROLS)


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def index_of(name: str, keys: torch.Tensor) -> Index:
    return METHODS[name]().index(keys)


def by_token(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the scores of tokens by page, ``[kv_heads, n, pages, 16]``; the last page repeats its last token."""
    scores = query @ paged(keys).flatten(1, 2).transpose(1, 2)
    return scores.view(*scores.shape[:2], -1, PAGE)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), st.floats(0.01, 100))
def test_bound_of_quest_is_above_every_token_of_the_page(
    seed: int, heads: int, tokens: int, head_dim: int, scale: float
) -> None:
    keys, query = drawn(seed, heads, tokens, head_dim), scale * drawn(seed + 1, heads, 3, head_dim)
    bound = index_of("quest", keys).scores(query)
    assert bound.shape == (heads, 3, -(-tokens // PAGE))
    assert (bound.unsqueeze(-1) >= by_token(query, keys) - 1e-4 * scale).all()


def test_bound_of_quest_is_reached_by_a_page_of_one_key() -> None:
    keys = drawn(1, 2, 3, 8).repeat_interleave(PAGE, 1)
    query = drawn(2, 2, 5, 8)
    torch.testing.assert_close(index_of("quest", keys).scores(query), by_token(query, keys)[..., 0])


def test_mean_of_a_page_scores_as_the_mean_of_its_tokens() -> None:
    keys, query = drawn(1, 2, 2 * PAGE + 5, 8), drawn(2, 2, 5, 8)
    scores = index_of("blockmean", keys).scores(query)
    torch.testing.assert_close(scores[..., :2], by_token(query, keys)[..., :2, :].mean(-1))
    torch.testing.assert_close(scores[..., 2], by_token(query, keys)[..., 2, :5].mean(-1))


def test_codebook_of_few_distinct_keys_is_exact() -> None:
    distinct = drawn(1, 2, 4, 8)
    keys = distinct[:, torch.arange(5 * PAGE + 3) // 8 % 4]
    query = drawn(2, 2, 5, 8)
    scores, want = index_of("vq", keys).scores(query), by_token(query, keys)
    torch.testing.assert_close(scores[..., :5], want[..., :5, :].logsumexp(-1))
    torch.testing.assert_close(scores[..., 5], want[..., 5, :3].logsumexp(-1))


def test_codebook_beats_chance_on_random_keys() -> None:
    keys, query = drawn(1, 1, 64 * PAGE, 16), drawn(2, 1, 50, 16)
    want = by_token(query, keys).logsumexp(-1)
    for name, least in (("vq", 0.5), ("quest", 0.3), ("blockmean", 0.3)):
        found = index_of(name, keys).scores(query)
        assert torch.corrcoef(torch.stack([found.flatten(), want.flatten()]))[0, 1] > least, name


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 100])
def test_equal_keys_give_equal_scores_and_rows_do_not_depend_on_each_other(name: str, tokens: int) -> None:
    keys, query = drawn(1, 2, tokens, 8), drawn(2, 2, 7, 8)
    scores = index_of(name, keys).scores(query)
    assert scores.shape == (2, 7, -(-tokens // PAGE))
    assert scores.isfinite().all()
    assert torch.equal(scores, index_of(name, keys.clone()).scores(query))
    torch.testing.assert_close(scores[:, 3:4], index_of(name, keys).scores(query[:, 3:4].contiguous()))
