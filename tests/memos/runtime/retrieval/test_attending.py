"""Attention to chosen pages, beside a mask in plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from memos.activation.kv import KVBlock, KVShape
from memos.runtime.attention import attend_page
from memos.runtime.retrieval import attending, names
from memos.runtime.retrieval.attending import attend_chosen, attend_pages, best
from memos.runtime.retrieval.names import FIRST, LAST, PAGE, Retrieval, check_retrieval

SCALING = 0.3


def drawn(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def masked(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend where a mask made of pages ``[n, kv_heads, m]`` lets, in float64."""
    kv_heads, tokens = keys.shape[:2]
    seen = torch.zeros(len(query), kv_heads, -(-tokens // PAGE), dtype=torch.bool).scatter_(2, pages, True)
    seen = seen.repeat_interleave(PAGE, 2)[..., :tokens]
    grouped = query.double().unflatten(1, (kv_heads, -1))
    scores = torch.einsum("nkgd,ktd->nkgt", grouped, keys.double()) * SCALING
    scores = scores.masked_fill(~seen.unsqueeze(2), -torch.inf)
    out = torch.einsum("nkgt,ktd->nkgd", scores.softmax(-1), values.double())
    return out.flatten(1, 2).float(), scores.logsumexp(-1).flatten(1, 2).float()


@pytest.mark.parametrize("tokens", [PAGE * 6, PAGE * 6 + 1, PAGE * 7 - 1])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_chosen_pages_are_attended_exactly(tokens: int, heads: int, kv_heads: int) -> None:
    query, keys, values = drawn(1, 5, heads, 8), drawn(2, kv_heads, tokens, 8), drawn(3, kv_heads, tokens, 8)
    pages = best(drawn(4, 5, kv_heads, -(-tokens // PAGE)), 4)
    found, mass = attend_pages(query, keys, values, pages, SCALING)
    want, lse = masked(query, keys, values, pages)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mass, lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, PAGE, PAGE * 5 + 7])
def test_all_pages_are_the_whole_context(tokens: int) -> None:
    query, keys, values = drawn(1, 5, 6, 8), drawn(2, 2, tokens, 8), drawn(3, 2, tokens, 8)
    everything = torch.arange(-(-tokens // PAGE)).expand(5, 2, -1)
    found = attend_pages(query, keys, values, everything, SCALING)
    want = attend_page(query, keys, values, tokens, SCALING, causal=False)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_is_elsewhere_is_brought_once() -> None:
    flat = drawn(1, 40, 8), drawn(2, 40, 8)
    places = torch.tensor([[3, 4, 39], [3, 8, 39]])
    moved, there = attending._brought(flat, places, torch.device("cpu"))
    assert [len(part) for part in moved] == [4, 4]
    for side in (0, 1):
        assert torch.equal(moved[side][there], flat[side][places])


def test_first_and_last_pages_are_always_among_the_best() -> None:
    scores = drawn(1, 3, 2, 20)
    highest = scores[..., FIRST:-LAST].argmax(-1) + FIRST
    pages = best(scores, FIRST + LAST + 1)
    assert (pages.diff(dim=-1) > 0).all()
    assert (pages[..., :FIRST] == 0).all()
    assert (pages[..., -LAST:] == torch.tensor([18, 19])).all()
    assert torch.equal(pages[..., FIRST], highest)


def test_page_is_worth_what_the_query_head_that_wants_it_most_finds() -> None:
    """Two query heads share a head of keys, and one of them wants one page alone: it is chosen for both."""
    tokens, head_dim = PAGE * 10, 8
    keys, values = 0.01 * drawn(1, 1, tokens, head_dim), drawn(2, 1, tokens, head_dim)
    keys[0, 4 * PAGE + 3] = 12 * torch.eye(head_dim)[0]
    query = torch.stack([torch.eye(head_dim)[0], -0.1 * torch.eye(head_dim)[1]]).unsqueeze(0)
    block = block_of(keys, values)
    for name in names.METHODS:
        retrieval = Retrieval(name, 0.4)
        found, _ = attend_chosen(query, block, 0, block.layer(0), retrieval, 1.0)
        whole, _ = attend_page(query, keys, values, tokens, 1.0, causal=False)
        torch.testing.assert_close(found[:, 0], whole[:, 0], rtol=0.01, atol=0.01)


def block_of(keys: torch.Tensor, values: torch.Tensor) -> KVBlock:
    heads, _, head_dim = keys.shape
    return KVBlock(KVShape(1, heads, head_dim, "float32"), torch.stack([keys, values]).unsqueeze(0))


@pytest.mark.parametrize("name", [*names.METHODS, *names.CONTROLS])
def test_rows_choose_for_themselves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, values = drawn(1, 9, 6, 8), drawn(2, 2, 150, 8), drawn(3, 2, 150, 8)
    block, retrieval = block_of(keys, values), check_retrieval(f"{name}:0.4")
    together = attend_chosen(query, block, 0, block.layer(0), retrieval, SCALING)
    alone = [attend_chosen(row, block, 0, block.layer(0), retrieval, SCALING) for row in query.split(1)]
    monkeypatch.setattr(attending, "TOGETHER", 4)
    pieces = attend_chosen(query, block, 0, block.layer(0), retrieval, SCALING)
    for side in (0, 1):
        torch.testing.assert_close(together[side], torch.cat([one[side] for one in alone]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together[side], pieces[side], rtol=1e-5, atol=1e-5)
