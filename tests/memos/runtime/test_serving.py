"""Many adapters, cartridges, shared prompts and loaded caches in one batch: each as if it ran alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from memos.activation.kv import KVBlock
from memos.errors import AdapterRefused, InvalidInput, MemosError
from memos.parametric.adapter import ATTENTION, FEED_FORWARD, PROJECTIONS, Adapter, Factors
from memos.runtime.loading import LoadedModel
from memos.runtime.loop import Generated, Request, Runtime
from memos.runtime.uses import AdapterUse, Cartridge

MOST = 1e-4
MakeAdapter = Callable[..., Adapter]
Merged = Callable[[Sequence[tuple[Adapter, float]]], Callable[[list[int]], torch.Tensor]]

PROMPTS = (
    "The capital of France is",
    "Ann adopted a grey cat called Miso in March. The cat's name is",
    "Tom is allergic to peanuts and moved from Rome to Oslo. He now lives in",
    "One, two, three, four,",
)


def use_of(adapter: Adapter, weight: float = 1.0, **how: Any) -> AdapterUse:
    return AdapterUse(adapter.digest, lambda: adapter, weight, **how)


@pytest.fixture(scope="module")
def adapters(loaded: LoadedModel, adapter_of: MakeAdapter) -> list[Adapter]:
    """Adapters of mixed ranks and modules."""
    kinds = [(8, PROJECTIONS), (3, ATTENTION), (16, FEED_FORWARD), (1, ("mlp.down_proj",)), (5, PROJECTIONS)]
    return [adapter_of(loaded, seed, rank, names) for seed, (rank, names) in enumerate(kinds)]


@pytest.fixture(scope="module")
def tokens(loaded: LoadedModel) -> list[list[int]]:
    return [list(loaded.tokenizer.encode(prompt)) for prompt in PROMPTS]


@pytest.fixture
def merged(loaded: LoadedModel, plain_forward: Any) -> Merged:
    """transformers' own forward, with adapters merged into its weights."""

    def build(uses: Sequence[tuple[Adapter, float]]) -> Callable[[list[int]], torch.Tensor]:
        weights = dict(loaded.model.state_dict())
        for adapter, weight in uses:
            for (layer, name), factors in adapter.factors.items():
                key = f"model.layers.{layer}.{name}.weight"
                weights[key] = weights[key] + weight * factors.delta()
        run: Callable[[list[int]], torch.Tensor] = plain_forward(loaded.model, weights)
        return run

    return build


def together(runtime: Runtime, requests: Sequence[Request]) -> list[Generated]:
    """Run requests at once, each in a thread of its own."""
    results: dict[int, Generated] = {}
    gate = threading.Barrier(len(requests))

    def run(place: int) -> None:
        gate.wait()
        results[place] = runtime.generate(requests[place]).finish()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[place] for place in range(len(requests))]


def mixed(adapters: list[Adapter], tokens: list[list[int]], block: KVBlock) -> list[Request]:
    """Return requests of every kind."""
    first, second, third, fourth, fifth = adapters
    base = tuple(tokens[1])
    trained = Cartridge("trained", block.tokens, lambda: block)
    fillers = (0,) * block.tokens
    return [
        Request(base, max_tokens=8),
        Request(base, max_tokens=8, adapters=(use_of(first),)),
        Request(base, max_tokens=8, adapters=(use_of(first), use_of(second, 0.5), use_of(fourth, -1.0))),
        Request(tuple(tokens[2]), max_tokens=8, adapters=(use_of(third),)),
        Request(tuple(tokens[0]), max_tokens=8, adapters=(use_of(fifth), use_of(third, 0.25))),
        Request((*fillers, *tokens[3]), max_tokens=8, cartridge=trained),
        Request((*fillers, *tokens[0]), max_tokens=8, cartridge=trained, adapters=(use_of(second),)),
        Request((*tokens[2], *tokens[0]), max_tokens=8, prefix=block_of(block, len(tokens[2]))),
        Request(tuple(tokens[3]), max_tokens=8, adapters=(use_of(second),)),
    ]


def block_of(block: KVBlock, count: int) -> KVBlock:
    return KVBlock(block.shape, block.data[:, :, :, :count].contiguous())


def test_logits_of_several_adapters_equal_merged_weights(
    runtime: Runtime, adapters: list[Adapter], tokens: list[list[int]], merged: Merged
) -> None:
    for uses in ([(adapters[0], 1.0)], [(adapters[1], 0.5), (adapters[2], -0.25), (adapters[4], 1.0)]):
        want = merged(uses)(tokens[1])
        found = runtime.logits(tokens[1], adapters=[use_of(adapter, weight) for adapter, weight in uses])
        assert (found - want).abs().max() <= MOST * max(1.0, float(want.abs().max()) / 30)
        assert (found - runtime.logits(tokens[1])).abs().max() > 0.5  # they do change what it says


def test_batch_of_every_kind_equals_each_alone(
    loaded: LoadedModel, runtime: Runtime, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    block = runtime.prefill((tokens[2] * 2)[:21])  # one block of 16, and five more
    requests = mixed(adapters, tokens, block)
    alone = [Runtime(loaded).generate(request).finish() for request in requests]
    for found, want in zip(together(runtime, requests), alone, strict=True):
        assert (found.text, found.tokens) == (want.text, want.tokens)
    for found, want in zip(together(runtime, requests[::-1]), alone[::-1], strict=True):  # now much is there already
        assert found.tokens == want.tokens
    assert runtime.idle
    use = runtime.pool
    assert use.free_bytes + use.idle_bytes == use.bytes


def test_equal_prompts_are_computed_once(runtime: Runtime, tokens: list[list[int]]) -> None:
    prompt = tuple((tokens[1] * 8)[:70])
    first, second = (runtime.generate(Request(prompt, max_tokens=6)).finish() for _ in range(2))
    assert (first.reused_tokens, second.reused_tokens) == (0, 64)
    assert first.tokens == second.tokens
    longer = runtime.generate(Request((*prompt[:40], *tokens[0]), max_tokens=6)).finish()
    assert longer.reused_tokens == 32
    assert (
        longer.tokens
        == runtime.generate(Request((*prompt[:40], *tokens[0]), max_tokens=6, share=False)).finish().tokens
    )


def test_prompt_of_whole_blocks_leaves_a_token_to_run(runtime: Runtime, tokens: list[list[int]]) -> None:
    prompt = tuple((tokens[1] * 8)[:48])
    first, second = (runtime.generate(Request(prompt, max_tokens=3)).finish() for _ in range(2))
    assert second.reused_tokens == 32
    assert first.tokens == second.tokens


def test_prompts_are_shared_only_within_owner_adapters_and_cartridge(
    runtime: Runtime, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    prompt, one = tuple((tokens[1] * 8)[:40]), adapters[1]
    block = runtime.prefill(tokens[2])
    kinds: list[dict[str, Any]] = [
        {},
        {"owner": "other"},
        {"adapters": (use_of(one),)},
        {"adapters": (use_of(one, 0.5),)},
        {"adapters": (use_of(adapters[3]),)},
        {"adapters": (use_of(one), use_of(adapters[3]))},
        {"cartridge": Cartridge("trained", 1, lambda: block_of(block, 1))},
    ]
    for kind in kinds:
        assert runtime.generate(Request(prompt, max_tokens=1, **kind)).finish().reused_tokens <= 1
    for kind in kinds:
        assert runtime.generate(Request(prompt, max_tokens=1, **kind)).finish().reused_tokens == 32


def test_adapters_stay_until_their_pages_are_needed(
    loaded: LoadedModel, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    reads: list[str] = []

    def counted(adapter: Adapter) -> AdapterUse:
        def read() -> Adapter:
            reads.append(adapter.digest)
            return adapter

        return AdapterUse(adapter.digest, read)

    request = Request(tuple(tokens[0]), max_tokens=2, adapters=(counted(adapters[0]),))
    roomy = Runtime(loaded)
    want, *_ = (roomy.generate(request).finish().tokens for _ in range(3))
    assert len(reads) == 1
    tight = Runtime(loaded, pool_bytes=13 << 20)  # one of them and a short prompt
    for adapter in (adapters[0], adapters[4], adapters[2]):
        tight.generate(Request(tuple(tokens[0]), max_tokens=2, adapters=(counted(adapter),))).finish()
    assert tight.generate(request).finish().tokens == want
    assert tight.pool.evicted > 0
    assert tight.pool.misses >= 3


def test_pool_that_holds_few_requests_serves_all(
    loaded: LoadedModel, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    tight = Runtime(loaded, pool_bytes=14 << 20)
    requests = [
        Request(tuple(tokens[at % 4]), max_tokens=4, adapters=(use_of(adapters[at % 5]),) if at % 3 else ())
        for at in range(12)
    ]
    want = [Runtime(loaded).generate(request).finish().tokens for request in requests]
    assert [found.tokens for found in together(tight, requests)] == want
    use = tight.pool
    assert use.free_bytes + use.idle_bytes == use.bytes


def test_request_larger_than_the_pool_is_refused(
    loaded: LoadedModel, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    tiny = Runtime(loaded, pool_bytes=3 << 20)
    with pytest.raises(InvalidInput, match="MEMOS_POOL_BYTES"):
        tiny.generate(Request(tuple(tokens[0]), max_tokens=500)).finish()
    with pytest.raises(InvalidInput, match="MEMOS_POOL_BYTES"):
        tiny.generate(Request(tuple(tokens[0]), max_tokens=2, adapters=(use_of(adapters[0]),))).finish()
    assert tiny.generate(Request(tuple(tokens[0]), max_tokens=2)).finish().tokens
    assert tiny.idle


def test_tail_ranks_go_under_pressure_only_where_that_is_allowed(
    loaded: LoadedModel, adapter_of: MakeAdapter, tokens: list[list[int]]
) -> None:
    adapter = adapter_of(loaded, 9, 12)
    needs = adapter.bytes * 2 // 3
    tight = Runtime(loaded, pool_bytes=needs + (3 << 20))
    with pytest.raises(InvalidInput, match="MEMOS_POOL_BYTES"):
        tight.generate(Request(tuple(tokens[0]), max_tokens=1, adapters=(use_of(adapter),))).finish()
    cut = Adapter(
        adapter.base,
        {at: Factors(one.down[:4], one.up[:, :4].contiguous(), one.scaling) for at, one in adapter.factors.items()},
    )
    found = tight.generate(Request(tuple(tokens[0]), max_tokens=3, adapters=(use_of(adapter, least_rank=4),))).finish()
    want = Runtime(loaded).generate(Request(tuple(tokens[0]), max_tokens=3, adapters=(use_of(cut),))).finish()
    whole = (
        Runtime(loaded)
        .generate(Request(tuple(tokens[0]), max_tokens=3, adapters=(use_of(adapter, least_rank=4),)))
        .finish()
    )
    exact = Runtime(loaded).generate(Request(tuple(tokens[0]), max_tokens=3, adapters=(use_of(adapter),))).finish()
    assert found.tokens == want.tokens
    assert whole.tokens == exact.tokens


def test_bad_adapter_fails_its_own_request_alone(
    loaded: LoadedModel, runtime: Runtime, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    good = adapters[1]
    (at, one), *_ = good.sorted()

    def changed(**how: Any) -> Adapter:
        return Adapter(how.pop("base", good.base), {how.pop("at", at): how.pop("factors", one)})

    broken = torch.full_like(one.down, float("nan"))
    bad = {
        "another model": changed(base="0" * 64),
        "not finite": changed(factors=Factors(broken, one.up)),
        "do not fit": changed(factors=Factors(one.down[:, 1:].contiguous(), one.up)),
        "no projection": changed(at=(999, at[1])),
        "no projection layers.0.lm": changed(at=(0, "lm_head")),
    }
    speaking = runtime.generate(Request(tuple(tokens[0]), max_tokens=30))
    next(speaking)
    for reason, adapter in bad.items():
        with pytest.raises(AdapterRefused, match=reason):
            runtime.generate(Request(tuple(tokens[0]), adapters=(use_of(adapter),))).finish()

    def missing() -> Adapter:
        raise MemosError("the file is gone")

    with pytest.raises(MemosError, match="gone"):
        runtime.generate(Request(tuple(tokens[0]), adapters=(AdapterUse("x", missing),))).finish()
    with pytest.raises(InvalidInput, match="finite"):
        runtime.generate(Request(tuple(tokens[0]), adapters=(use_of(good, float("nan")),)))
    with pytest.raises(InvalidInput, match="fillers"):
        runtime.generate(Request((1, 2), cartridge=Cartridge("c", 2, lambda: runtime.prefill([1, 2]))))
    assert speaking.finish().text
    assert runtime.idle


def test_dropped_adapter_is_read_anew(runtime: Runtime, adapters: list[Adapter], tokens: list[list[int]]) -> None:
    """As after a memory was forgotten: nothing of it is served, not even prompts that were computed with it."""
    prompt, one = tuple((tokens[1] * 4)[:40]), adapters[1]
    request = Request(prompt, max_tokens=2, adapters=(use_of(one),))
    runtime.generate(request).finish()
    plain = runtime.generate(Request(prompt, max_tokens=2)).finish()
    running = runtime.generate(Request(prompt, max_tokens=20, adapters=(use_of(one),)))
    next(running)
    runtime.drop_adapters([one.digest])
    running.finish()  # it keeps what it runs with
    misses = runtime.pool.misses
    assert runtime.generate(request).finish().reused_tokens == 0
    assert runtime.pool.misses == misses + 1
    assert runtime.generate(Request(prompt, max_tokens=2)).finish().reused_tokens == 32
    assert plain.tokens == runtime.generate(Request(prompt, max_tokens=2)).finish().tokens


def test_cancelled_request_gives_everything_back(
    runtime: Runtime, adapters: list[Adapter], tokens: list[list[int]]
) -> None:
    stream = runtime.generate(Request(tuple(tokens[0]), max_tokens=100, adapters=(use_of(adapters[0]),)))
    next(stream)
    assert runtime.pool.free_bytes + runtime.pool.idle_bytes < runtime.pool.bytes
    stream.close()
    assert runtime.pool.free_bytes + runtime.pool.idle_bytes == runtime.pool.bytes


def test_one_request_is_not_starved_by_many_of_another_owner(
    loaded: LoadedModel, tokens: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from memos.runtime import scheduler

    monkeypatch.setattr(scheduler, "MOST_RUNNING", 2)
    runtime, ended = Runtime(loaded), []
    lock, gate = threading.Lock(), threading.Event()

    def run(owner: str) -> None:
        stream = runtime.generate(Request(tuple(tokens[0]), max_tokens=6, owner=owner))
        stream.finish()
        with lock:
            ended.append(owner)
            gate.set()

    crowd = [threading.Thread(target=run, args=("crowd",)) for _ in range(10)]
    for thread in crowd:
        thread.start()
    gate.wait()
    single = threading.Thread(target=run, args=("single",))
    single.start()
    for thread in [*crowd, single]:
        thread.join()
    assert ended.index("single") <= 6  # of eleven
