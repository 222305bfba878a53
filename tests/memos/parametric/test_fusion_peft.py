"""Merged adapters against those that PEFT itself makes of the same ones on a small Llama."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memos.parametric.adapter import PROJECTIONS, Adapter
from memos.parametric.fusion.fuse import fuse
from memos.parametric.naming import adapter_of

RANK, ALPHA = 4, 6
#: Keyword arguments of PEFT that mean the same as ours.
Compare = Callable[..., tuple[Adapter, Adapter]]


@pytest.fixture(scope="module")
def peft_model() -> Any:
    """A Llama of two layers with adapters x, y, z (rank 4), and big (rank 6), all of random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model: Any = None
    for name in ("x", "y", "z", "big"):
        rank = 6 if name == "big" else RANK
        targets = [projection.rsplit(".", 1)[1] for projection in PROJECTIONS]
        lora = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=targets, init_lora_weights=False)
        if model is None:
            model = get_peft_model(AutoModelForCausalLM.from_config(config), lora, adapter_name=name)
        else:
            model.add_adapter(name, lora)
    return model


@pytest.fixture
def compare(peft_model: Any) -> Compare:
    """Merge with PEFT and with this package; options are ours, ``theirs`` are PEFT's."""

    def run(
        names: str, weights: list[float], method: str, theirs: dict[str, Any], **ours: Any
    ) -> tuple[Adapter, Adapter]:
        chosen = names.split()
        peft_model.add_weighted_adapter(chosen, weights, "merged", combination_type=method, **theirs)
        expected = of_peft(peft_model, "merged")
        peft_model.delete_adapter("merged")
        return fuse([of_peft(peft_model, name) for name in chosen], weights, method, **ours), expected

    return run


def of_peft(model: Any, name: str) -> Adapter:
    """Return one of PEFT's adapters."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, adapter_name=name)
    alpha = model.peft_config[name].lora_alpha
    kept = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    return adapter_of("tiny", kept, lambda _, rank: alpha / rank)


def distance(made: Adapter, expected: Adapter) -> float:
    """Return the largest relative error of a module."""
    assert made.factors.keys() == expected.factors.keys()
    pairs = [(made.factors[place].delta(), expected.factors[place].delta()) for place in expected.factors]
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


def test_cat_of_unequal_ranks_equals_peft(compare: Compare) -> None:
    made, expected = compare("x y big", [0.5, -1.0, 2.0], "cat", {})
    assert made.rank == expected.rank == 14
    assert distance(made, expected) < 1e-5


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, -0.7, 1.5]])
def test_linear_equals_peft(compare: Compare, weights: list[float]) -> None:
    made, expected = compare("x y z", weights, "linear", {})
    assert distance(made, expected) < 1e-5


@pytest.mark.parametrize("rank", [None, 3, 9])
def test_svd_equals_peft(compare: Compare, rank: int | None) -> None:
    made, expected = compare("x y big", [0.3, -0.7, 1.5], "svd", {"svd_rank": rank}, rank=rank)
    assert made.rank == expected.rank == (rank or 6)
    assert distance(made, expected) < 1e-4


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_magnitude_prune_equals_peft(compare: Compare, density: float) -> None:
    made, expected = compare("x y z", [0.3, -0.7, 1.5], "magnitude_prune", {"density": density}, density=density)
    assert distance(made, expected) < 1e-5


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties_of_equal_weights_equals_peft(compare: Compare, density: float) -> None:
    made, expected = compare("x y z", [0.8, 0.8, 0.8], "ties", {"density": density}, density=density)
    assert distance(made, expected) < 1e-5


def test_ties_of_unequal_weights_votes_by_weight_unlike_peft(compare: Compare) -> None:
    made, expected = compare("x y z", [5.0, 0.1, 0.1], "ties", {"density": 0.7}, density=0.7)
    assert distance(made, expected) > 0.1


@pytest.mark.parametrize("method", ["magnitude_prune_svd", "ties_svd"])
def test_merging_deltas_comes_close_to_the_dense_svd_of_peft(compare: Compare, peft_model: Any, method: str) -> None:
    made, expected = compare("x y z", [0.8, 0.8, 0.8], method, {"density": 0.6, "svd_rank": 4}, density=0.6, rank=4)
    exact, _ = compare("x y z", [0.8, 0.8, 0.8], method, {"density": 0.6}, density=0.6, rank=12)
    assert made.rank == expected.rank == 4
    for place, other in expected.factors.items():
        # Rank 12 holds nearly all that both were cut from; theirs is the optimum.
        whole = exact.factors[place].delta()
        ours, theirs = (float((one.delta() - whole).norm()) for one in (made.factors[place], other))
        assert ours < 1.02 * theirs


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_drops_what_peft_drops_after_the_same_seed(peft_model: Any, method: str) -> None:
    from peft.utils import merge_utils

    adapters = [of_peft(peft_model, name) for name in "xyz"]
    place = (0, "self_attn.q_proj")
    alone = [Adapter("tiny", {place: adapter.factors[place]}) for adapter in adapters]
    made = fuse(alone, [0.8, 0.8, 0.8], method, density=0.6, seed=11).factors[place]
    theirs: Callable[..., torch.Tensor] = getattr(merge_utils, method)
    torch.manual_seed(11)
    # PEFT draws while it merges: all downs, then all ups.
    down = theirs([adapter.factors[place].down for adapter in adapters], torch.full((3,), 1.2**0.5), 0.6)
    up = theirs([adapter.factors[place].up for adapter in adapters], torch.full((3,), 1.2**0.5), 0.6)
    assert torch.allclose(made.delta(), up @ down, rtol=1e-4, atol=1e-6)
