"""Requests that attend a share of their context, on random models too small to take time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memos.activation.kv import KVBlock, ParallelKV
from memos.activation.ragged import RaggedBlock, RaggedLayout
from memos.errors import InvalidInput, RetrievalRefused, StoreClosed
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Request, Runtime
from memos.runtime.request import Answer
from memos.runtime.retrieval import indexes, names

MOST = 1e-4
CONTEXT = tuple((7 * place + place // 11) % 50 + 8 for place in range(150))
QUESTION = tuple(range(20, 31))
ALL = (*names.METHODS, *names.CONTROLS)


@pytest.fixture
def tiny_model(tiny: Callable[..., Path]) -> LoadedModel:
    """Two layers, four heads that share two of keys."""
    return load_model(str(tiny("llama", eos_token_id=None)))


@pytest.fixture
def runtime(tiny_model: LoadedModel) -> Runtime:
    return Runtime(tiny_model)


@pytest.fixture
def cache(runtime: Runtime) -> KVBlock:
    return runtime.prefill(CONTEXT)


def asked(cache: Any, retrieval: str | None, **how: Any) -> Request:
    return Request((*CONTEXT, *QUESTION), prefix=cache, max_tokens=8, retrieval=retrieval, **how)


def test_share_of_one_is_exact_for_every_method(runtime: Runtime, cache: KVBlock) -> None:
    want = runtime.logits([*CONTEXT, *QUESTION], cache)
    for name in ALL:
        found = runtime.logits([*CONTEXT, *QUESTION], cache, retrieval=f"{name}:1")
        assert (found - want).abs().max() <= MOST
        sparse = runtime.logits([*CONTEXT, *QUESTION], cache, retrieval=f"{name}:0.4")
        assert (sparse - want).abs().max() > MOST


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_attended_too(tiny: Callable[..., Path], dtype: str) -> None:
    runtime = Runtime(load_model(str(tiny("llama", eos_token_id=None)), dtype=dtype))
    cache = runtime.prefill(CONTEXT)
    want = runtime.logits([*CONTEXT, *QUESTION], cache)
    for name in ALL:
        found = runtime.logits([*CONTEXT, *QUESTION], cache, retrieval=f"{name}:0.9")
        assert 0 < (found - want).abs().max() < 0.1


def test_answer_tells_the_share(runtime: Runtime, cache: KVBlock) -> None:
    share = {
        name: runtime.generate(asked(cache, name)).finish().attended for name in ("quest:1", "vq:0.5", "quest:0.1")
    }
    assert share == {"quest:1": 1.0, "vq:0.5": 70 / 150, "quest:0.1": 38 / 150}  # 5 and 3 of 10 pages, the last of 6
    assert runtime.generate(asked(cache, None)).finish().attended == 1.0
    assert runtime.generate(Request(CONTEXT, max_tokens=2, retrieval="quest:0.1")).finish().attended == 1.0


@pytest.mark.parametrize("name", ALL)
def test_same_question_gets_the_same_answer(tiny_model: LoadedModel, cache: KVBlock, name: str) -> None:
    one, other = (Runtime(tiny_model).generate(asked(cache, f"{name}:0.3")).finish() for _ in range(2))
    copied = Runtime(tiny_model).generate(asked(KVBlock(cache.shape, cache.data.clone()), f"{name}:0.3")).finish()
    assert one.tokens == other.tokens == copied.tokens


def test_batch_of_all_ways_equals_each_alone(tiny_model: LoadedModel, runtime: Runtime, cache: KVBlock) -> None:
    other = runtime.prefill(CONTEXT[:70])
    requests = [
        *(asked(cache, f"{name}:{ratio}") for name in ALL for ratio in (0.3, 0.6)),
        asked(cache, None),
        asked(cache, "quest:1"),
        Request((*CONTEXT[:70], *QUESTION), prefix=other, max_tokens=5, retrieval="quest:0.6"),
        Request((*CONTEXT[:70], *QUESTION), max_tokens=5, share=False),
        asked(None, "quest:0.3", share=False),
    ]
    alone = [Runtime(tiny_model).generate(request).finish() for request in requests]
    for order in (1, -1):
        found = runtime.answers(requests[::order])
        assert [one.tokens for one in found] == [one.tokens for one in alone[::order]]
    assert runtime.idle
    assert runtime.pool.free_bytes + runtime.pool.idle_bytes == runtime.pool.bytes


def test_long_question_runs_in_pieces_as_it_does_whole(runtime: Runtime, cache: KVBlock) -> None:
    question = [(5 * place) % 50 + 8 for place in range(90)]
    whole = runtime.logits([*CONTEXT, *question], cache, retrieval="quest:0.4")
    first = runtime.logits([*CONTEXT, *question[:40]], cache, retrieval="quest:0.4")
    assert (whole[:40] - first).abs().max() <= MOST


def test_context_beyond_the_pool_is_computed_in_pieces_and_answers(tiny_model: LoadedModel, cache: KVBlock) -> None:
    small = Runtime(tiny_model, pool_bytes=tiny_model.shape.bytes(64))
    with pytest.raises(InvalidInput, match="MEMOS_POOL_BYTES"):
        small.generate(asked(None, "quest:0.4")).finish()
    made = small.prefill(CONTEXT)
    torch.testing.assert_close(made.data, cache.data, rtol=MOST, atol=MOST)
    found = small.generate(asked(made, "quest:0.4")).finish()
    assert found.tokens == Runtime(tiny_model).generate(asked(cache, "quest:0.4")).finish().tokens
    assert small.pool.free_bytes == small.pool.bytes


def test_parts_that_weigh_differently_are_chosen_from_apart(runtime: Runtime, cache: KVBlock) -> None:
    head = cache.first(40)
    memory = KVBlock(cache.shape, cache.data[:, :, :, 40:].contiguous())
    parts = ParallelKV(head, memory, 0.9, 0.8)
    tokens = [*CONTEXT, *QUESTION]
    want = runtime.logits(tokens, parts)
    assert (runtime.logits(tokens, parts, retrieval="quest:1") - want).abs().max() <= MOST
    assert MOST < (runtime.logits(tokens, parts, retrieval="quest:0.5") - want).abs().max() < 5
    assert runtime.generate(asked(parts, "quest:0.5")).finish().attended == (40 + 62) / 150


def test_pruned_cache_is_attended_whole(runtime: Runtime, cache: KVBlock) -> None:
    """Its heads keep tokens of their own, which were chosen once already."""
    kept = np.ones((cache.shape.layers, cache.shape.heads, cache.tokens), bool)
    kept[:, 0, 40:90] = False
    kept[:, 1, ::2] = False
    layout = RaggedLayout(kept)
    data = tuple(
        torch.cat([layer[:, head, kept[at, head]] for head in range(2)], 1) for at, layer in enumerate(cache.data)
    )
    pruned = RaggedBlock(cache.shape, layout, data)
    want, found = (runtime.generate(asked(pruned, name)).finish() for name in (None, "quest:0.3"))
    assert (found.tokens, found.attended) == (want.tokens, 1.0)


@pytest.mark.parametrize("name", ["quest", "quest:0", "quest:2", "h2o:0.5", "quest:nan"])
def test_bad_retrieval_is_refused_before_any_work(runtime: Runtime, cache: KVBlock, name: str) -> None:
    with pytest.raises(RetrievalRefused):
        runtime.generate(asked(cache, name))
    with pytest.raises(RetrievalRefused):
        runtime.logits([*CONTEXT, *QUESTION], cache, retrieval=name)
    assert runtime.idle


def test_summaries_go_with_their_cache(runtime: Runtime) -> None:
    cache = runtime.prefill(CONTEXT)
    before = set(indexes._indexes)
    runtime.generate(asked(cache, "quest:0.3")).finish()
    runtime.generate(asked(cache, "vq:0.3")).finish()
    assert set(indexes._indexes) == before | {cache}
    assert len(indexes._indexes[cache]) == 2 * cache.shape.layers
    del cache
    assert not set(indexes._indexes) - before


def test_request_that_is_given_up_gives_everything_back(
    tiny_model: LoadedModel, runtime: Runtime, cache: KVBlock
) -> None:
    answer = Answer(asked(cache, "quest:0.3"), tiny_model)
    with runtime._enrolled(answer):
        runtime.step()
        runtime.step()
        held = runtime.pool.bytes - runtime.pool.free_bytes
    assert held == cache.shape.bytes(32)  # the question and the answer, in blocks of 16 tokens
    assert runtime.pool.free_bytes == runtime.pool.bytes


def test_closing_ends_what_runs(tiny_model: LoadedModel, runtime: Runtime, cache: KVBlock) -> None:
    answer = Answer(asked(cache, "vq:0.3"), tiny_model)
    with runtime._enrolled(answer):
        runtime.step()
        runtime.close()
        with pytest.raises(StoreClosed):
            runtime.step()
    with pytest.raises(StoreClosed):
        runtime.generate(asked(cache, "quest:0.3")).finish()
