"""Merged and reordered adapters as the runtime serves them: the same logits as what they were made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from memos.parametric.adapter import Adapter
from memos.parametric.checks import Frame, check
from memos.parametric.fusion.fuse import fuse
from memos.parametric.fusion.ordering import ordered
from memos.runtime.host import ModelHost
from memos.runtime.loop import Runtime
from memos.runtime.uses import AdapterUse

TOKENS = list(range(1_000, 1_024))
WEIGHTS = [1.0, -0.5]

Serve = Callable[[list[Adapter], list[float]], torch.Tensor]


@pytest.fixture
def serve(models: ModelHost) -> Serve:
    """Return the logits of a prompt with some adapters."""
    runtime = Runtime(models.serving().loaded)

    def run(adapters: list[Adapter], weights: list[float]) -> torch.Tensor:
        uses = [
            AdapterUse(adapter.digest, lambda adapter=adapter: adapter, weight)  # type: ignore[misc]
            for adapter, weight in zip(adapters, weights, strict=True)
        ]
        return runtime.logits(TOKENS, adapters=uses)

    return run


@pytest.fixture
def adapters(random_adapter: Callable[..., Adapter]) -> list[Adapter]:
    """Two adapters of several ranks, on other projections."""
    second = ("self_attn.k_proj", "mlp.down_proj")
    return [random_adapter(1, ranks=(4, 2)), random_adapter(2, projections=second, ranks=(6,), scalings=(3.0,))]


def test_what_cat_and_full_svd_make_serves_as_the_adapters_together_do(
    serve: Serve, adapters: list[Adapter], frame: Frame
) -> None:
    together = serve(adapters, WEIGHTS)
    assert float((together - serve([], [])).abs().max()) > 0.1
    for merged in (fuse(adapters, WEIGHTS, "cat"), fuse(adapters, WEIGHTS, "svd", rank=10)):
        check(merged, frame, 16)
        assert float((serve([merged], [1.0]) - together).abs().max()) < 1e-3


def test_ordered_serves_as_before(serve: Serve, adapters: list[Adapter]) -> None:
    assert float((serve([ordered(adapters[0])], [1.0]) - serve(adapters[:1], [1.0])).abs().max()) < 1e-3
