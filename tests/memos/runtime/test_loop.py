"""Streaming, stopping, cancelling and sharing the loop between threads, on the real bundled model."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from memos.errors import InvalidInput, StoreClosed
from memos.runtime import loop, scheduler
from memos.runtime.batch import Batch
from memos.runtime.chat import ChatFormat
from memos.runtime.forward import hidden_states
from memos.runtime.loading import LoadedModel
from memos.runtime.loop import Generated, Request, Runtime
from memos.runtime.sampling import Sampling

QUESTIONS = ("Name three colours.", "What is the capital of France?", "Count from one to five.")


@pytest.fixture(scope="module")
def prompts(chat: ChatFormat) -> list[tuple[int, ...]]:
    return [tuple(chat.prompt([], [{"role": "user", "content": question}])) for question in QUESTIONS]


def test_pieces_joined_are_the_text(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    stream = runtime.generate(Request(prompts[0], max_tokens=6))
    assert (
        "".join(list(stream)) == stream.result.text == runtime.generate(Request(prompts[0], max_tokens=6)).finish().text
    )


def test_answer_ends_at_the_end_of_the_text(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    answer = runtime.generate(Request(prompts[1], max_tokens=40)).finish()
    assert (answer.text, answer.finish_reason) == ("The capital of France is Paris.", "stop")


def test_answer_ends_at_its_length(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    answer = runtime.generate(Request(prompts[1], max_tokens=3)).finish()
    assert (answer.text, answer.finish_reason, len(answer.tokens)) == ("The capital of", "length", 3)


def test_answer_ends_with_the_context_window(loaded: LoadedModel, prompts: list[tuple[int, ...]]) -> None:
    small = replace(loaded, context_window=len(prompts[1]) + 2)
    answer = Runtime(small).generate(Request(prompts[1], max_tokens=50)).finish()
    assert (answer.finish_reason, len(answer.tokens)) == ("length", 2)


def test_stop_string_across_tokens_is_cut(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    stream = runtime.generate(Request(prompts[1], max_tokens=40, stop=("of Fr", "nowhere")))
    assert "".join(stream) == "The capital "
    assert stream.result.finish_reason == "stop"


def test_times_are_in_order(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    answer = runtime.generate(Request(prompts[1], max_tokens=3)).finish()
    assert 0 < answer.prefill_ms <= answer.first_token_ms <= answer.total_ms
    assert answer.first_token_ms == pytest.approx(answer.queue_ms + answer.prefill_ms)
    assert (answer.prompt_tokens, answer.reused_tokens) == (len(prompts[1]), 0)


def test_seed_repeats_the_draw(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    def draw(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=1.5, top_p=0.95, seed=seed)
        return runtime.generate(Request(prompts[0], sampling=sampling, max_tokens=6)).finish().tokens

    assert draw(7) == draw(7) != draw(8)


def test_threads_share_steps_and_get_what_they_get_alone(
    runtime: Runtime, prompts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(prompt, max_tokens=5) for prompt in prompts]
    alone = [runtime.generate(request).finish().text for request in requests]
    sizes: list[int] = []

    def counted(loaded: LoadedModel, batch: Batch) -> object:
        sizes.append(len(batch.parts))
        return hidden_states(loaded, batch)

    monkeypatch.setattr(loop, "hidden_states", counted)
    together: dict[int, Generated] = {}
    gate = threading.Barrier(len(requests))

    def run(place: int) -> None:
        gate.wait()
        together[place] = runtime.generate(requests[place]).finish()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[place].text for place in range(len(requests))] == alone
    assert max(sizes) > 1


def test_consumer_that_pauses_holds_up_nobody(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    paused = runtime.generate(Request(prompts[0], max_tokens=5))
    first = next(paused)
    other = runtime.generate(Request(prompts[1], max_tokens=20)).finish()
    assert other.text == "The capital of France is Paris."
    assert first + "".join(paused) == runtime.generate(Request(prompts[0], max_tokens=5)).finish().text


def test_closed_stream_is_cancelled(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    stream = runtime.generate(Request(prompts[0], max_tokens=200))
    next(stream)
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert runtime.idle
    assert list(stream) == []


def test_dropped_stream_is_cancelled(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    for piece in runtime.generate(Request(prompts[0], max_tokens=200)):
        assert piece
        break
    assert runtime.idle


def test_long_prefill_lets_others_speak(
    runtime: Runtime, loaded: LoadedModel, prompts: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "BESIDE_TOKENS", 64)
    speaking = runtime.generate(Request(prompts[0], max_tokens=10))
    next(speaking)
    long = tuple(range(100, 356))
    runtime.prefill(long)  # four steps and more, in which the other went on
    assert len(speaking.result.tokens) >= 4


def test_closed_runtime_refuses(runtime: Runtime, prompts: list[tuple[int, ...]]) -> None:
    stream = runtime.generate(Request(prompts[0], max_tokens=50))
    next(stream)
    runtime.close()
    with pytest.raises(StoreClosed):
        list(stream)
    with pytest.raises(StoreClosed):
        runtime.prefill([1, 2, 3])


def test_impossible_request_is_refused_at_once(runtime: Runtime) -> None:
    with pytest.raises(InvalidInput, match="max_tokens"):
        runtime.generate(Request((1, 2), max_tokens=0))
    with pytest.raises(InvalidInput, match="stop"):
        runtime.generate(Request((1, 2), stop=("",)))
