"""Composed caches against a full prefill: what must be exact is, what is not gets better with every token computed."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from memos.activation.compose.base import Composed, Stage
from memos.activation.compose.modes import MODES, compose, make_mode
from memos.activation.compose.parts import Parts
from memos.activation.kv import KVBlock
from memos.errors import CompositionRefused, PromptTooLong
from memos.runtime.host import Serving
from memos.runtime.loop import Request, Runtime

pytestmark = pytest.mark.timeout(300)  # the first test loads the model


def data_of(composed: Composed) -> torch.Tensor:
    kv = composed.kv
    return torch.stack([torch.stack(kv.layer(layer)) for layer in range(kv.shape.layers)])


def divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    exact, other = exact.log_softmax(-1), other.log_softmax(-1)
    return float((exact.exp() * (exact - other)).sum(-1).mean())


@pytest.mark.parametrize("mode", ["blend", "craft"])
def test_ratio_one_is_a_full_prefill(
    stage: Stage, parts: Parts, question: list[int], exact: torch.Tensor, mode: str
) -> None:
    made = compose(stage, make_mode(mode, 1.0), parts, question)
    logits = stage.runtime.logits((*parts.tokens, *question), made.kv)
    assert (logits - exact).abs().max() < 1e-4
    assert made.recomputed == (0, *(len(part.tokens) for part in parts.parts[1:]))


@pytest.mark.parametrize("mode", ["concat", "blend", "craft"])
def test_first_bundle_is_exact_at_any_ratio(
    stage: Stage, parts: Parts, question: list[int], whole: KVBlock, mode: str
) -> None:
    first = parts.spans[0].last
    made = data_of(compose(stage, make_mode(mode, 0.3), parts, question))
    assert (made[:, :, :, :first] - whole.data[:, :, :, :first]).abs().max() < 1e-4


def test_more_recomputed_is_closer_to_a_full_prefill(
    stage: Stage, parts: Parts, question: list[int], exact: torch.Tensor
) -> None:
    costs = []
    for ratio in (0.0, 0.2, 0.6, 1.0):
        made = compose(stage, make_mode("blend", ratio), parts, question)
        assert sum(made.recomputed) <= ratio * parts.memory_tokens
        costs.append(divergence(exact, stage.runtime.logits((*parts.tokens, *question), made.kv)))
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 10 * costs[2] > 0


def test_composition_is_deterministic_and_leaves_the_parts_alone(
    stage: Stage, parts: Parts, question: list[int]
) -> None:
    before = [torch.stack(part.kv.layer(3)).clone() for part in parts.parts]
    one, two = (data_of(compose(stage, make_mode("blend", 0.2), parts, question)) for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(old, torch.stack(part.kv.layer(3))) for old, part in zip(before, parts.parts, strict=True))


def test_keys_of_the_first_layer_are_those_of_their_new_positions(stage: Stage, parts: Parts, whole: KVBlock) -> None:
    made = data_of(compose(stage, make_mode("concat", 0.0), parts))  # the first layer sees its own token alone
    assert (made[0] - whole.data[0]).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["blend", "craft"])
def test_one_bundle_is_its_own_cache(stage: Stage, parts: Parts, mode: str) -> None:
    alone = Parts(parts.head, parts.parts[:1])
    made = compose(stage, make_mode(mode, 0.5), alone)
    assert made.recomputed == (0,)
    assert torch.equal(data_of(made)[5], torch.stack(parts.parts[0].kv.layer(5)))


def test_requests_that_run_meanwhile_get_what_they_would_alone(
    serving: Serving, parts: Parts, question: list[int]
) -> None:
    runtime = Runtime(serving.loaded)
    stage = Stage(serving.loaded, runtime)
    request = Request((*parts.tokens[:40], *question), max_tokens=12)
    expected = runtime.generate(request).finish().tokens
    alone = data_of(compose(stage, make_mode("blend", 0.3), parts, question))
    made: list[torch.Tensor] = []
    composing = [
        threading.Thread(target=lambda: made.append(data_of(compose(stage, make_mode("blend", 0.3), parts, question))))
        for _ in range(2)
    ]
    for thread in composing:
        thread.start()
    answers = [runtime.generate(request).finish().tokens for _ in range(2)]
    for thread in composing:
        thread.join()
    assert answers == [expected, expected]
    assert len(made) == 2
    assert all(torch.equal(one, alone) for one in made)


# ------------------------------------------------------------ what is refused, before any work


class Unread:
    """A cache that nobody may read."""

    def __init__(self, parts: Parts) -> None:
        self.shape, self.tokens = parts.shape, parts.parts[0].kv.tokens

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fail."""
        raise AssertionError("work was begun")


def refused(stage: Stage, parts: Parts, match: str) -> None:
    first = replace(parts.parts[0], kv=Unread(parts))
    with pytest.raises(CompositionRefused, match=match):
        compose(stage, make_mode("blend", 0.2), Parts(parts.head, (first, *parts.parts[1:])))


def test_parts_that_make_no_prompt_are_refused(stage: Stage, parts: Parts) -> None:
    one, two = parts.parts[:2]
    refused(stage, Parts(parts.head, (one, replace(two, fingerprint="f" * 64))), "another model")
    refused(stage, Parts(parts.head, (one, two, two)), "twice")
    refused(stage, Parts(parts.head, (one, replace(two, sources=(("note-0", 2),)))), "note-0 is in two")
    refused(stage, Parts(parts.head, (one, replace(two, tokens=two.tokens[:-1]))), "not one of the head")
    with pytest.raises(CompositionRefused, match="nothing"):
        compose(stage, make_mode("concat", 0.0), Parts(parts.head, ()))


def test_more_tokens_than_the_window_are_refused(serving: Serving, parts: Parts) -> None:
    small = replace(serving.loaded, context_window=60)
    with pytest.raises(PromptTooLong, match="59 at most"):
        compose(Stage(small, serving.runtime), make_mode("concat", 0.0), parts)


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(CompositionRefused, match="from 0 to 1"):
        make_mode("blend", ratio)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(CompositionRefused, match="blend"):
        make_mode("fuse", 0.1)
    assert "blend" in MODES
