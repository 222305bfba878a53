"""The packed forward against transformers' own, float32: every way to split tokens gives the same logits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from memos.activation.kv import KVBlock, KVShape
from memos.activation.miss import KVMiss
from memos.errors import InvalidInput, PromptTooLong
from memos.runtime import scheduler
from memos.runtime.batch import Batch, order
from memos.runtime.forward import hidden_states, logits_of
from memos.runtime.loading import LoadedModel
from memos.runtime.loop import Request, Runtime
from memos.runtime.pool import PagePool, PageShape
from memos.runtime.sequence import Sequence

Reference = Callable[[list[int]], torch.Tensor]
MOST = 1e-4
TEXT = "Ann adopted a grey cat called Miso in March. Tom is allergic to peanuts and moved from Rome to Oslo. " * 2


@pytest.fixture(scope="module")
def tokens(loaded: LoadedModel) -> list[int]:
    return list(loaded.tokenizer.encode(TEXT))


def test_packed_batch_equals_separate_forwards(
    loaded: LoadedModel, runtime: Runtime, reference: Reference, tokens: list[int]
) -> None:
    prefix = runtime.prefill(tokens[:32])
    prompts = [(tokens[:40], prefix), (tokens[3:20], None), (tokens[5:6], None), (tokens[:33], prefix)]
    pool = PagePool(PageShape.of(loaded.shape, [loaded.model.config.hidden_size]), 2000, loaded.device)
    sequences = [Sequence(prompt, loaded.shape, prefix=kv) for prompt, kv in prompts]
    for sequence in sequences:
        pages = pool.take(sequence.blocks * pool.shape.block_pages)
        sequence.begin(pages.reshape(loaded.shape.layers, 2, -1), 0)
    batch = Batch(pool, order([(sequence, sequence.waiting) for sequence in sequences]))
    logits = logits_of(loaded, hidden_states(loaded, batch))
    for part in batch.parts:
        want = reference(part.sequence.tokens)[-part.tokens :]
        assert (logits[part.first : part.first + part.tokens] - want).abs().max() <= MOST


def test_prefix_equals_recompute(runtime: Runtime, reference: Reference, tokens: list[int]) -> None:
    want = reference(tokens)
    assert (runtime.logits(tokens) - want).abs().max() <= MOST
    for held in (1, 31, len(tokens) - 1):
        found = runtime.logits(tokens, runtime.prefill(tokens[:held]))
        assert (found - want[held:]).abs().max() <= MOST


def test_prompt_in_pieces_equals_whole(
    runtime: Runtime, reference: Reference, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "STEP_TOKENS", 7)
    prefix = runtime.prefill(tokens[:20])
    assert (runtime.logits(tokens, prefix) - reference(tokens)[20:]).abs().max() <= MOST


def test_greedy_text_is_the_same_with_and_without_prefix(runtime: Runtime, tokens: list[int]) -> None:
    whole = runtime.generate(Request(tuple(tokens), max_tokens=6)).finish()
    reused = runtime.generate(Request(tuple(tokens), prefix=runtime.prefill(tokens[:30]), max_tokens=6)).finish()
    assert reused.tokens == whole.tokens
    assert (whole.reused_tokens, reused.reused_tokens) == (0, 30)


def test_greedy_tokens_are_those_of_transformers(runtime: Runtime, reference: Reference, tokens: list[int]) -> None:
    answer = runtime.generate(Request(tuple(tokens), max_tokens=3)).finish()
    expected = list(tokens)
    for _ in range(3):
        expected.append(int(reference(expected)[-1].argmax()))
    assert list(answer.tokens) == expected[len(tokens) :]


def test_shared_prefix_is_never_written(runtime: Runtime, tokens: list[int]) -> None:
    prefix = runtime.prefill(tokens[:40])
    before = prefix.data.clone()
    requests = [Request(tuple(tokens[: 42 + more]), prefix=prefix, max_tokens=4) for more in range(2)]
    alone = [runtime.generate(request).finish().tokens for request in requests]
    together = [None, None]

    def run(place: int) -> None:
        together[place] = runtime.generate(requests[place]).finish().tokens  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert torch.equal(prefix.data, before)


class SlowKV:
    """A cache whose layers are asked for in order; the last one misses on demand."""

    def __init__(self, block: KVBlock, *, broken: bool = False) -> None:
        self.shape, self.tokens = block.shape, block.tokens
        self.asked: list[int] = []
        self._block, self._broken = block, broken

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(index)
        if self._broken and index == self.shape.layers - 1:
            raise KVMiss("checksum", "the last layer is not what was written")
        return self._block.layer(index)


def test_layers_are_read_once_and_in_order(runtime: Runtime, tokens: list[int]) -> None:
    prefix = SlowKV(runtime.prefill(tokens[:40]))
    runtime.generate(Request(tuple(tokens[:44]), prefix=prefix, max_tokens=4)).finish()
    assert prefix.asked == list(range(prefix.shape.layers))


def test_miss_ends_its_own_request_alone(runtime: Runtime, tokens: list[int]) -> None:
    broken = SlowKV(runtime.prefill(tokens[:40]), broken=True)
    fine = runtime.generate(Request(tuple(tokens[:44]), max_tokens=4))
    alone = runtime.generate(Request(tuple(tokens[:44]), max_tokens=4)).finish()
    first = next(fine)
    with pytest.raises(KVMiss, match="last layer"):
        runtime.generate(Request(tuple(tokens[:44]), prefix=broken)).finish()
    assert first + "".join(fine) == alone.text


def test_prefix_of_another_shape_is_refused(runtime: Runtime, tokens: list[int]) -> None:
    other = KVShape(2, 3, 64, "float32")
    with pytest.raises(InvalidInput, match="another model"):
        runtime.generate(Request(tuple(tokens), prefix=KVBlock(other, other.empty(10))))


def test_prefix_must_leave_a_token_to_run(runtime: Runtime, tokens: list[int]) -> None:
    with pytest.raises(InvalidInput, match="must go on after it"):
        runtime.generate(Request(tuple(tokens[:20]), prefix=runtime.prefill(tokens[:20])))


def test_prompt_beyond_the_window_is_refused_before_work(runtime: Runtime, loaded: LoadedModel) -> None:
    with pytest.raises(PromptTooLong, match="8191 at most"):
        runtime.generate(Request((5,) * loaded.context_window))
    with pytest.raises(PromptTooLong):
        runtime.prefill([5] * (loaded.context_window + 1))


@pytest.mark.parametrize("tokens", [(), (-1,), (1 << 20,)])
def test_tokens_that_are_none_are_refused(runtime: Runtime, tokens: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="token"):
        runtime.generate(Request(tokens))


def test_prefilled_cache_is_contiguous_in_host_memory(runtime: Runtime, loaded: LoadedModel, tokens: list[int]) -> None:
    kv = runtime.prefill(tokens[:10])
    assert tuple(kv.data.shape) == (30, 2, 3, 10, 64)
    assert kv.data.is_contiguous()
    assert kv.shape == loaded.shape
    kv.data.clone().mul_(2)  # no tensor of inference mode
