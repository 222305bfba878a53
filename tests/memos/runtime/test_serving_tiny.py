"""What a whole runtime does with adapters and cartridges, on random models too small to take time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memos.activation.kv import KVBlock, KVShape
from memos.errors import InvalidInput, MemosError, StoreClosed
from memos.parametric.adapter import Adapter
from memos.runtime.loading import LoadedModel, load_model
from memos.runtime.loop import Request, Runtime
from memos.runtime.uses import AdapterUse, Cartridge

MakeAdapter = Callable[..., Adapter]
Load = Callable[..., LoadedModel]

PROMPT = tuple(range(8, 60))


@pytest.fixture
def load(tiny: Callable[..., Path]) -> Load:
    """Load a random model of a family in some dtype."""

    def build(dtype: str = "float32", family: str = "llama", **own: Any) -> LoadedModel:
        return load_model(str(tiny(family, eos_token_id=None, **own)), dtype=dtype)

    return build


def use_of(adapter: Adapter, weight: float = 1.0) -> AdapterUse:
    return AdapterUse(adapter.digest, lambda: adapter, weight)


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 40},
        {"num_key_value_heads": 4, "intermediate_size": 36},
        {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10},
    ],
)
def test_adapters_of_models_of_all_widths_equal_merged_weights(
    load: Load, adapter_of: MakeAdapter, plain_forward: Any, own: dict[str, int]
) -> None:
    loaded = load(**own)
    adapters = [(adapter_of(loaded, 1, 5), 1.0), (adapter_of(loaded, 2, 3), -0.5)]
    weights = dict(loaded.model.state_dict())
    for adapter, weight in adapters:
        for (layer, name), factors in adapter.factors.items():
            key = f"model.layers.{layer}.{name}.weight"
            weights[key] = weights[key] + weight * factors.delta()
    want = plain_forward(loaded.model, weights)(list(PROMPT))
    found = Runtime(loaded).logits(PROMPT, adapters=[use_of(*one) for one in adapters])
    assert (found - want).abs().max() < 1e-4
    assert (Runtime(loaded).logits(PROMPT) - want).abs().max() > 1e-2


def test_cartridge_of_another_dtype_is_rounded_to_the_models(load: Load) -> None:
    """A cartridge is trained in float32; it belongs to the model at any dtype."""
    loaded = load("bfloat16")
    runtime, shape = Runtime(loaded), loaded.shape
    trained = runtime.prefill(PROMPT[:20])
    exact = KVBlock(KVShape(shape.layers, shape.heads, shape.head_dim, "float32"), trained.data.float())
    fillers = (0,) * 20
    cartridges = Cartridge("float32", 20, lambda: exact), Cartridge("bfloat16", 20, lambda: trained)
    found, want = (
        runtime.generate(Request((*fillers, *PROMPT[20:]), max_tokens=6, cartridge=one)).finish() for one in cartridges
    )
    assert found.tokens == want.tokens
    assert found.reused_tokens == 20


def test_cartridge_that_does_not_fit_is_refused(load: Load) -> None:
    loaded = load()
    runtime, shape = Runtime(loaded), loaded.shape
    narrow = KVShape(shape.layers, shape.heads, shape.head_dim // 2, shape.dtype)
    for block in (KVBlock(narrow, narrow.empty(3)), KVBlock(shape, shape.empty(4))):
        cartridge = Cartridge(str(block.tokens), 3, lambda block=block: block)  # type: ignore[misc]
        with pytest.raises(InvalidInput, match="cartridge"):
            runtime.generate(Request(PROMPT, cartridge=cartridge)).finish()
    assert runtime.idle
    assert runtime.pool.free_bytes == runtime.pool.bytes


def test_adapter_that_could_not_be_read_is_read_anew(load: Load, adapter_of: MakeAdapter) -> None:
    loaded = load()
    runtime, adapter, failures = Runtime(loaded), adapter_of(loaded, 1, 4), [MemosError("the disk is away")]

    def read() -> Adapter:
        if failures:
            raise failures.pop()
        return adapter

    request = Request(PROMPT, max_tokens=4, adapters=(AdapterUse(adapter.digest, read),))
    with pytest.raises(MemosError, match="the disk is away"):
        runtime.generate(request).finish()
    whole = Request(PROMPT, max_tokens=4, adapters=(use_of(adapter),))
    assert runtime.generate(request).finish().tokens == Runtime(loaded).generate(whole).finish().tokens


def test_adapter_being_read_holds_up_nobody(load: Load, adapter_of: MakeAdapter) -> None:
    """Not even where it was asked for first and nothing runs: others come, and what is forgotten is dropped."""
    loaded = load()
    runtime, adapter = Runtime(loaded), adapter_of(loaded, 1, 4)
    asked, arrived, answers = threading.Event(), threading.Event(), []

    def read() -> Adapter:
        asked.set()
        assert arrived.wait(30)
        return adapter

    slow = Request(PROMPT, max_tokens=2, adapters=(AdapterUse(adapter.digest, read),))
    waiting = threading.Thread(target=lambda: answers.append(runtime.generate(slow).finish().tokens))
    waiting.start()
    assert asked.wait(30)
    for _ in range(2):
        assert len(runtime.generate(Request(PROMPT[:20], max_tokens=3)).finish().tokens) == 3
        runtime.drop_adapters(["another"])
    assert waiting.is_alive()
    arrived.set()
    waiting.join(30)
    whole = Request(PROMPT, max_tokens=2, adapters=(use_of(adapter),))
    assert answers == [Runtime(loaded).generate(whole).finish().tokens]
    assert runtime.idle


def test_closed_runtime_waits_for_no_adapter(load: Load, adapter_of: MakeAdapter) -> None:
    loaded = load()
    runtime, adapter = Runtime(loaded), adapter_of(loaded, 1, 4)
    asked, arrived, errors = threading.Event(), threading.Event(), []

    def read() -> Adapter:
        asked.set()
        assert arrived.wait(30)
        return adapter

    def run() -> None:
        with pytest.raises(StoreClosed) as caught:
            runtime.generate(Request(PROMPT, adapters=(AdapterUse(adapter.digest, read),))).finish()
        errors.append(caught.value)
        arrived.set()

    waiting = threading.Thread(target=run)
    waiting.start()
    assert asked.wait(30)
    runtime.close()
    waiting.join(30)
    assert len(errors) == 1
    with pytest.raises(StoreClosed):
        runtime.step()


def test_requests_of_tight_pools_end_as_alone(load: Load, adapter_of: MakeAdapter) -> None:
    """Pages go round between prompts, cartridges and adapters of all ranks; every answer is its own."""
    loaded = load()
    adapters = [adapter_of(loaded, seed, rank) for seed, rank in enumerate((1, 4, 7, 12))]
    block = Runtime(loaded).prefill(PROMPT[:21])
    requests = [
        Request(
            (*((0,) * 21 if at % 5 == 4 else ()), *PROMPT[at % 7 : 20 + at % 30]),
            max_tokens=3 + at % 9,
            adapters=tuple(use_of(adapters[(at + more) % 4], 1.0 - more / 2) for more in range(at % 3)),
            cartridge=Cartridge("trained", 21, lambda: block) if at % 5 == 4 else None,
            owner=f"owner {at % 3}",
        )
        for at in range(40)
    ]
    want = [Runtime(loaded).generate(request).finish().tokens for request in requests]
    tight = Runtime(loaded, pool_bytes=150_000)
    assert [found.tokens for found in tight.answers(requests)] == want
    assert [found.tokens for found in tight.answers(requests[::-1])] == want[::-1]
    use = tight.pool
    assert use.free_bytes + use.idle_bytes == use.bytes
    assert use.evicted > 10
