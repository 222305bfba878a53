"""The parts: budgets, what is noted, attention to ragged layers, folding, and projection."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos.activation.codecs.registry import make_codec
from memos.activation.kv import KVBlock, KVShape
from memos.activation.loss import decode
from memos.activation.merge.elastic import nearest
from memos.activation.merge.fold import NOBODY, fold
from memos.activation.observing import observed_prefill
from memos.activation.policies import make_policy
from memos.activation.ragged import RaggedBlock, RaggedLayer, RaggedLayout
from memos.activation.seen import TAIL, Need, Seen, attention_of
from memos.activation.select.base import SINKS
from memos.activation.select.budgets import apportioned, best
from memos.runtime.attention import _attend_prefix
from memos.runtime.watching import Watcher

pytestmark = pytest.mark.timeout(300)


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    least=st.integers(0, 5),
    spread=st.integers(0, 50),
    data=st.data(),
)
def test_budgets_add_up_within_bounds(weights: list[float], least: int, spread: int, data: st.DataObject) -> None:
    most, count = least + spread, len(weights)
    amount = data.draw(st.integers(least * count, most * count))
    found = apportioned(torch.tensor(weights), amount, least, most)
    assert int(found.sum()) == amount
    assert least <= int(found.min()) <= int(found.max()) <= most


def test_budgets_are_proportional_where_they_can_be() -> None:
    assert apportioned(torch.tensor([1.0, 2.0, 3.0]), 60, 0, 100).tolist() == [10, 20, 30]
    assert apportioned(torch.tensor([1.0, 1.0, 100.0]), 60, 5, 40).tolist() == [10, 10, 40]


def test_best_takes_the_earlier_of_equals() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    assert best(scores, torch.tensor([2, 1])).tolist() == [[False, True, True, False], [True, False, False, False]]


def test_ragged_attention_is_the_softmax_of_what_is_there() -> None:
    torch.manual_seed(0)
    lengths = (5, 5, 0, 3)
    entries = sum(lengths)
    keys, values, logs = torch.randn(entries, 8), torch.randn(entries, 8), torch.rand(entries)
    query = torch.randn(7, 8, 8)
    out, lse = _attend_prefix(query, RaggedLayer(keys, values, lengths, logs), 0.4)
    ends = np.cumsum(lengths)
    for head in range(8):
        mine = slice(ends[head // 2] - lengths[head // 2], ends[head // 2])
        scores = query[:, head] @ keys[mine].T * 0.4 + logs[mine]
        if lengths[head // 2]:
            assert torch.allclose(out[:, head], scores.softmax(-1) @ values[mine], atol=1e-5)
        assert torch.allclose(lse[:, head], scores.logsumexp(-1), atol=1e-5)


def test_noted_is_what_the_weights_of_all_rows_say(prompt: Any) -> None:
    kv, seen = prompt.kv, prompt.kv.seen
    queries = prompt.runtime.prefill(prompt.tokens[:TAIL], {Need.TAIL}).seen.tail
    short = prompt.runtime.prefill(prompt.tokens[:TAIL], {Need.TAIL, Need.MASS, Need.RECURRENCE})
    assert torch.allclose(short.seen.tail, queries, atol=1e-4)  # whatever else is noted beside them
    for layer in range(kv.shape.layers):
        weights = attention_of(short.seen.tail[layer], short.data[layer, 0], short.seen.scaling).mean(1)
        assert torch.allclose(short.seen.mass[layer], weights.sum(1), atol=1e-3)
        last, gap = recurrence(weights >= 0.01)
        near = ((weights - 0.01).abs() < 1e-5).any(1)
        assert torch.equal(short.seen.last[layer][~near], last[~near])
        assert torch.equal(short.seen.gap[layer][~near], gap[~near])
    assert seen.tail.shape[2] == TAIL
    assert torch.allclose(seen.mass.sum(-1), torch.tensor(float(kv.tokens)), rtol=1e-3)


def recurrence(hits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    heads, rows, tokens = hits.shape
    last, gap = torch.full((heads, tokens), -1.0), torch.zeros(heads, tokens)
    for head in range(heads):
        for token in range(tokens):
            times = torch.nonzero(hits[head, :, token])[:, 0].tolist()
            last[head, token] = times[-1] if times else -1
            gap[head, token] = max((b - a for a, b in pairwise(times)), default=0)
    assert rows == tokens
    return last, gap


def test_moments_are_those_of_the_queries_before_rope(prompt: Any) -> None:
    seen: Seen = prompt.runtime.prefill(prompt.tokens[:1], frozenset(Need) - {Need.COPYING}).seen
    assert seen.means is not None
    assert seen.tail is not None
    assert torch.allclose(seen.means, seen.tail[:, :, 0], atol=1e-4)  # at position 0 nothing is turned
    many = prompt.kv.seen
    assert torch.linalg.eigvalsh(many.covariances.double()).min() > -1e-2


def test_moments_leave_the_queries_of_the_sinks_out(prompt: Any) -> None:
    seen = prompt.runtime.prefill(prompt.tokens[: SINKS + 1], {Need.MOMENTS}).seen
    assert seen.covariances.abs().max() < 1e-2  # of one query that is left
    lone = prompt.runtime.prefill(prompt.tokens[: SINKS + 1], {Need.TAIL}).seen.tail[:, :, -1]
    assert torch.allclose(seen.means.norm(dim=-1), lone.norm(dim=-1), rtol=1e-4)  # which a rotation keeps


def test_second_reading_notes_the_most_that_any_row_of_it_pays(prompt: Any) -> None:
    tokens = prompt.tokens[: TAIL // 2]
    seen: Seen = prompt.runtime.prefill(tokens, {Need.READ, Need.MASS}).seen
    twice = prompt.runtime.prefill(tokens * 2, {Need.TAIL})
    tails = twice.seen.tail
    assert seen.read is not None
    for layer in range(prompt.kv.shape.layers):
        weights = attention_of(tails[layer], twice.data[layer, 0], seen.scaling)
        again = weights[:, :, len(tokens) :, : len(tokens)]
        assert torch.allclose(seen.read[layer], again.amax((1, 2)), atol=1e-4)
    assert seen.mass is not None
    assert torch.allclose(seen.mass.sum(-1), torch.tensor(float(len(tokens))), rtol=1e-3)  # of the first alone


def test_second_reading_leaves_the_cache_and_what_is_noted_of_it_alone(prompt: Any) -> None:
    tokens, needs = prompt.tokens[:50], frozenset(Need) - {Need.COPYING}
    once, twice = prompt.runtime.prefill(tokens, needs - {Need.READ}), prompt.runtime.prefill(tokens, needs)
    assert torch.allclose(once.data, twice.data, atol=1e-4)
    for name in ("tail", "mass", "means", "covariances", "last", "gap"):
        assert torch.allclose(getattr(once.seen, name), getattr(twice.seen, name), atol=1e-2), name


@pytest.mark.parametrize("spec", ["kvzip:0.5", "h2o:0.5"])
def test_what_does_not_fit_twice_is_read_again_in_pieces(
    prompt: Any, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(prompt.runtime), "most_noted", 50)
    codec, tokens = make_codec(spec), prompt.tokens[:60]
    kv = observed_prefill(prompt.runtime, tokens, codec, prompt.loaded.model.config.vocab_size)
    assert kv.seen is not None
    assert kv.seen.read is not None
    pieces = [prompt.runtime.prefill(tokens[start : start + 25], {Need.READ}).seen.read for start in (0, 25, 50)]
    assert torch.equal(kv.seen.read, torch.cat(pieces, -1))
    assert (kv.seen.mass is None) == (spec == "kvzip:0.5")
    assert codec.encode(kv).bytes > 0


def test_second_reading_decides_on_its_share_across_all_heads(prompt: Any) -> None:
    read = torch.rand(prompt.kv.data.shape[:1] + prompt.kv.data.shape[2:4], generator=torch.Generator().manual_seed(0))
    read[0, 0] += 1  # one head alone
    kv = replace(prompt.kv, seen=replace(prompt.kv.seen, read=read))
    own, both = (make_policy(spec)[1].prune(kv).kept for spec in ("keydiff:0.2,read=0", "keydiff:0.4"))
    assert both[0, 0].all()
    assert (both >= own).all()
    added = both & ~own
    assert read[added].min() >= read[~both].max()


def test_what_the_second_reading_looks_at_is_merged_into_nothing(prompt: Any) -> None:
    pruned = make_policy("chelsea:0.4")[1].prune(prompt.kv)
    read = prompt.kv.seen.read
    assert pruned.counts is not None
    high = pruned.kept & (read > read[~pruned.kept].max())
    assert high.any()
    assert (pruned.counts[high] == 1).all()
    assert (pruned.counts[pruned.kept] > 1).any()
    same = (pruned.data == prompt.kv.data).all(-1).all(1)
    assert same[high].all()


def test_rows_that_run_again_are_noted_once(prompt: Any) -> None:
    shape = KVShape(1, 1, 4, "float32")
    watcher = Watcher({Need.MASS, Need.TAIL}, shape, 3, torch.ones(2))
    pool, table = torch.randn(1, 1, 16, 4), torch.zeros(1, dtype=torch.int32)
    watcher.scale(1.0)
    for rows in (2, 2, 1, 3):  # a step that failed, the same again, then in other pieces
        watcher.see(0, torch.randn(rows, 2, 4), 0, pool, table)
    seen = watcher.seen()
    assert seen.mass is not None
    assert float(seen.mass.sum()) == pytest.approx(3)
    assert seen.tail is not None
    assert seen.tail.shape == (1, 2, 3, 4)


def test_promotion_notes_only_what_is_needed(prompt: Any) -> None:
    vocabulary = prompt.loaded.model.config.vocab_size
    assert observed_prefill(prompt.runtime, prompt.tokens[:20], make_codec("int4"), vocabulary).seen is None
    seen = observed_prefill(prompt.runtime, prompt.tokens[:20], make_codec("razor:0.5"), vocabulary).seen
    assert seen is not None
    assert seen.copying is not None
    assert seen.mass is None
    assert 0 <= float(seen.copying.min()) <= float(seen.copying.max()) <= 1


def test_cut_keeps_entries_of_the_first_tokens_alone(prompt: Any) -> None:
    codec = make_codec("elastic:0.5")
    block = decode(prompt.kv, codec, codec.encode(prompt.kv))
    assert isinstance(block, RaggedBlock)
    first = block.first(60)
    assert first.tokens == 60
    for index in range(prompt.kv.shape.layers):
        whole, part = block.ragged_layer(index), first.ragged_layer(index)
        inside = torch.from_numpy(block.layout.positions(index) < 60)
        assert torch.equal(part.keys, whole.keys[inside])
        assert part.log_counts is not None
        assert whole.log_counts is not None
        assert torch.equal(part.log_counts, whole.log_counts[inside])


def test_fold_is_a_weighted_mean() -> None:
    layer = torch.zeros(2, 1, 4, 2)
    layer[1, 0, :, 0] = torch.tensor([1.0, 2.0, 4.0, 8.0])
    owners = torch.tensor([[0, 0, NOBODY, 3]])
    means, counts = fold(layer, owners, torch.tensor([[3.0, 1.0, 9.0, 5.0]]))
    assert counts.tolist() == [[2, 0, 0, 1]]
    assert means[1, 0, 0, 0] == pytest.approx((3 * 1 + 1 * 2) / 4)
    assert means[1, 0, 3, 0] == 8


def test_nearest_is_the_nearest() -> None:
    kept = torch.tensor([[True, False, False, True, False, False]])
    assert nearest(kept).tolist() == [[0, 0, 3, 3, 3, 3]]


def test_log_counts_are_those_of_the_layer() -> None:
    kept = np.array([[[True, False, True]], [[False, True, True]]])
    layout = RaggedLayout(kept, np.array([1, 2, 3, 4], np.uint16))
    first, second = layout.split(torch.zeros(2 * 2 * 4), 2)
    assert first.shape == second.shape == (2, 2, 2)
    logs = layout.layer_of(1, second).log_counts
    assert logs is not None
    assert torch.allclose(logs, torch.tensor([3.0, 4.0]).log())
    assert layout.positions(1).tolist() == [1, 2]


@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(1, 1, 64), (2, 3, 6), (130, 2, 16), (300, 3, 64)])
def test_projection_errs_by_what_the_axes_left_out_explain(tokens: int, heads: int, head_dim: int) -> None:
    shape = KVShape(2, heads, head_dim, "float32")
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(2, 2, heads, tokens, max(1, head_dim // 8), generator=generator)
    data = low @ torch.randn(2, 2, heads, low.shape[-1], head_dim, generator=generator)
    kv = KVBlock(shape, data + 0.01 * torch.randn(data.shape, generator=generator))
    for spec in ("pca:0.5", "pca:0.5+int8"):
        codec = make_codec(spec)
        assert make_codec(codec.spec).spec == codec.spec == spec
        encoded = codec.encode(kv)
        back = decode(kv, codec, encoded)
        assert isinstance(back, KVBlock)
        error = (back.data - kv.data).square().mean().sqrt() / kv.data.square().mean().sqrt()
        assert float(error) < 0.05
        if spec.endswith("int8"):
            assert tokens < 300 or encoded.bytes < 0.2 * kv.data.nbytes


def test_projection_refuses_what_is_damaged(prompt: Any) -> None:
    codec, kv = make_codec("pca:0.5"), prompt.kv
    parts = codec.encode(kv).layers[0]
    decoder = codec.decoder(kv.shape, kv.tokens, {}, {})
    damaged: dict[str, np.ndarray[Any, Any]] = {
        "ranks": np.zeros(3, np.uint16),
        "axes": np.zeros(5, np.int8),
        "base": np.array([-1], np.float32),
    }
    for name, value in damaged.items():
        with pytest.raises(ValueError, match=r"axes|base"):
            decoder.decode(0, {**parts, name: value}, kv.shape.empty(kv.tokens)[0])
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(replace(kv, data=torch.full_like(kv.data, torch.nan)))
