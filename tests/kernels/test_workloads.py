"""The inputs that tests and benchmarks share."""

from __future__ import annotations

import pytest
import torch

from memos_kernels.workloads import (
    POPULARITY,
    Heads,
    paged,
    popularity,
    random_tensor,
    rank_rows,
    sequences,
    shuffled_table,
)


@pytest.mark.parametrize("pattern", POPULARITY)
@pytest.mark.parametrize("batch", [0, 1, 2, 64, 1001])
def test_popularity_names_adapters_of_the_batch_and_repeats_itself(pattern: str, batch: int) -> None:
    chosen = popularity(pattern, batch, seed=3)
    assert len(chosen) == batch
    assert all(0 <= adapter < max(batch, 1) for adapter in chosen)
    assert chosen == popularity(pattern, batch, seed=3)


def test_popularity_patterns_are_what_they_are_called() -> None:
    counts = {pattern: torch.bincount(torch.tensor(popularity(pattern, 400))) for pattern in POPULARITY}
    used = {pattern: int((count > 0).sum()) for pattern, count in counts.items()}
    assert used["identical"] == 1
    assert used["distinct"] == 400
    assert used["uniform"] == 20
    assert used["skewed"] == 201
    assert counts["skewed"][0] == 200
    assert 0.3 < counts["zipf"].max() / 400 < 0.5  # 1 / zeta(1.5) is 0.38


def test_popularity_of_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="no popularity pattern 'pareto'"):
        popularity("pareto", 3)


@pytest.mark.parametrize("spare", [0, 5])
def test_table_names_no_page_twice(spare: int) -> None:
    table = shuffled_table(3, 7, seed=1, spare=spare)
    assert table.dtype == torch.int32
    assert table.shape == (3, 7)
    assert len(table.unique()) == 21
    assert table.max() < 21 + spare
    assert not torch.equal(table, shuffled_table(3, 7, seed=2, spare=spare))


def test_random_tensor_repeats_itself_in_every_dtype() -> None:
    single, half = random_tensor((4, 5), seed=1), random_tensor((4, 5), torch.float16, seed=1)
    assert torch.equal(single.half(), half)
    assert not torch.equal(single, random_tensor((4, 5), seed=2))


def test_paged_holds_every_token_where_the_table_says() -> None:
    dense = torch.arange(2 * 3 * 5 * 4).view(2, 3, 5, 4)
    pool, table = paged(dense, 2, order=4, spare=2, fill=-1)
    assert pool.shape == (2 * 3 + 2, 3, 2, 4)
    for matrix in range(2):
        for t in range(5):
            assert torch.equal(pool[int(table[matrix, t // 2]), :, t % 2], dense[matrix, :, t])
    assert (pool == -1).sum() == pool.numel() - dense.numel()


@pytest.mark.parametrize("shared", [False, True])
def test_sequences_hold_the_same_tokens_in_any_order_of_pages(shared: bool) -> None:
    layout = Heads(4, 2, 6, 4)
    first, second = (sequences([5, 0, 9], [1, 0, 3], layout, order=order, shared=shared, fill=7.0) for order in (0, 1))
    assert first.starts.tolist() == [0, 1, 1, 4]
    assert (first.values is first.keys) == shared
    assert not torch.equal(first.table, second.table)
    for b, blocks in ((0, 2), (2, 3)):
        for side, name in ((0, "keys"), (1, "values"), (0, "log_weights")):
            one, other = (getattr(each, name)[each.table[b, side, :blocks].long()] for each in (first, second))
            assert torch.equal(one, other)
    used = [page for b, blocks in ((0, 2), (2, 3)) for page in first.table[b, :, :blocks].flatten().tolist()]
    assert len(set(used)) == len(used) or not shared
    assert (first.table[0, :, 2:] == 2**30).all()


def test_rank_rows_lead_to_the_matrices() -> None:
    pool, rows, matrices = rank_rows((2, 0, 3), 3, 4)
    assert rows.starts.tolist() == [0, 2, 2, 5]
    assert pool[rows.slots.long()].flatten(1).equal(torch.cat(matrices))
    assert pool.isnan().any(1).sum() == 3
