"""Adapters in the pool: every rank row is where the kernels look for it, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memos.errors import AdapterRefused
from memos.parametric.adapter import PROJECTIONS, Adapter, Factors
from memos.runtime.loading import load_model
from memos.runtime.packing import Modules, Packed, pack
from memos.runtime.pool import PagePool, PageShape
from memos_kernels import AdapterStep

#: Inputs and outputs of the projections of the tiny model.
SIZES = dict(zip(PROJECTIONS, [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)], strict=True))
BASE = "a model"
CHUNKS = np.array([*SIZES.values()] * 2, np.int32) // 16
MODULES = Modules(BASE, 2, CHUNKS, 16)
FLOAT32 = torch.float32


def factors(projection: str, rank: int, seed: int = 0, scaling: float = 1.0, dtype: torch.dtype = FLOAT32) -> Factors:
    inward, outward = SIZES[projection]
    random = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(size, generator=random) for size in ((rank, inward), (outward, rank)))
    return Factors(down.to(dtype), up.to(dtype), scaling)


def adapter(ranks: Mapping[tuple[int, str], int], **how: Any) -> Adapter:
    made = {
        (layer, name): factors(name, rank, seed, 0.5 + seed, **how)
        for seed, ((layer, name), rank) in enumerate(ranks.items())
    }
    return Adapter(BASE, made)


MIXED = {
    "one module": {(1, "mlp.down_proj"): 1},
    "ranks of all kinds": {
        (0, "self_attn.q_proj"): 3,
        (0, "self_attn.k_proj"): 4,
        (1, "self_attn.v_proj"): 5,
        (1, "mlp.gate_proj"): 8,
        (1, "mlp.down_proj"): 17,
    },
    "all modules": {(layer, name): 6 for layer in (0, 1) for name in PROJECTIONS},
}


def placed(packed: list[Packed], page_slots: int, width: int) -> tuple[torch.Tensor, AdapterStep]:
    """Copy adapters into pages in disorder; return the pool and their step."""
    counts = [-(-len(one.run) // page_slots) for one in packed]
    order = np.random.default_rng(0).permutation(sum(counts)).astype(np.int32)
    pool = torch.full((sum(counts), page_slots, width), float("nan"), dtype=packed[0].run.dtype)
    pages = np.zeros((len(packed), max(counts)), np.int32)
    for at, one in enumerate(packed):
        mine, order = order[: counts[at]], order[counts[at] :]
        pages[at, : counts[at]] = mine
        for number, page in enumerate(mine):
            part = one.run[number * page_slots : (number + 1) * page_slots]
            pool[page, : len(part)] = part
    groups = max(one.places.shape[1] for one in packed)
    places = np.stack([np.pad(one.places, ((0, 0), (0, groups - one.places.shape[1]))) for one in packed])
    ranks = np.stack([one.ranks for one in packed])
    return pool.view(-1, width), AdapterStep(pages, np.ascontiguousarray(places), ranks, CHUNKS, page_slots, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("page_slots", [3, 16])
def test_rows_are_where_the_kernels_look(dtype: torch.dtype, page_slots: int) -> None:
    adapters = [adapter(ranks) for ranks in MIXED.values()]
    pool, step = placed([pack(one, MODULES, dtype) for one in adapters], page_slots, 16)
    for at, one in enumerate(adapters):
        for index in range(len(CHUNKS)):
            place = index // len(PROJECTIONS), PROJECTIONS[index % len(PROJECTIONS)]
            down, up = (pool[torch.from_numpy(step.slots(at, index, side)).long()].flatten(1) for side in (0, 1))
            if place not in one.factors:
                assert down.numel() == up.numel() == 0
                continue
            want = one.factors[place]
            assert torch.equal(down, want.down.to(dtype))
            assert torch.equal(up, (want.up.T * want.scaling).to(dtype))  # rounded once


def test_first_groups_are_the_first_ranks() -> None:
    whole = adapter(MIXED["ranks of all kinds"])
    packed = pack(whole, MODULES, FLOAT32)
    for groups in range(1, 5):
        first = {
            place: Factors(one.down[: 4 * groups], one.up[:, : 4 * groups].contiguous(), one.scaling)
            for place, one in whole.factors.items()
        }
        cut = pack(Adapter(BASE, first), MODULES, FLOAT32)
        assert torch.equal(packed.run[: int(packed.starts[groups])], cut.run)
        assert np.array_equal(packed.places[:, :groups], cut.places)
        assert np.array_equal(np.minimum(packed.ranks, 4 * groups), cut.ranks)
    assert packed.starts[-1] == len(packed.run)


def test_factors_of_half_precision_and_any_strides_pack_alike() -> None:
    half = adapter(MIXED["all modules"], dtype=torch.bfloat16)
    other = {
        place: Factors(one.down.float().T.contiguous().T, one.up.float().T.contiguous().T, one.scaling)
        for place, one in half.factors.items()
    }
    assert torch.equal(pack(half, MODULES, FLOAT32).run, pack(Adapter(BASE, other), MODULES, FLOAT32).run)


def test_modules_of_a_model_with_grouped_heads(tiny: Callable[..., Path]) -> None:
    loaded = load_model(str(tiny("llama")))
    shape = PageShape.of(loaded.shape, [width for pair in SIZES.values() for width in pair])
    modules = Modules.of(loaded.model, loaded.identity.base, shape)
    assert (modules.layers, modules.width, modules.base) == (2, 16, loaded.identity.base)
    assert np.array_equal(modules.chunks, CHUNKS)
    assert PagePool(shape, 1, loaded.device).slots.shape[1] == modules.width


KEY, DOWN = (0, "self_attn.k_proj"), (1, "mlp.down_proj")
GOOD = {KEY: factors(KEY[1], 2), DOWN: factors(DOWN[1], 3)}


def changed(name: str, at: tuple[int, ...], value: float) -> dict[tuple[int, str], Factors]:
    tensors = {"down": GOOD[KEY].down.clone(), "up": GOOD[KEY].up.clone()}
    tensors[name][at] = value
    return {**GOOD, KEY: Factors(tensors["down"], tensors["up"])}


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Adapter("another", GOOD), "another model"),
        (Adapter(BASE, {**GOOD, (2, KEY[1]): GOOD[KEY]}), r"no projection layers\.2\.self_attn\.k_proj"),
        (Adapter(BASE, {**GOOD, (-1, KEY[1]): GOOD[KEY]}), r"no projection layers\.-1"),
        (Adapter(BASE, {**GOOD, (0, "lm_head"): GOOD[KEY]}), r"no projection layers\.0\.lm_head"),
        (Adapter(BASE, {(0, "mlp.up_proj"): GOOD[KEY]}), "32 inputs and 48 outputs"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down[:, :16], GOOD[KEY].up)}), "do not fit a projection"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down, GOOD[KEY].up[:8])}), "do not fit a projection"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down, GOOD[KEY].up[:, :1])}), "do not fit a projection"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down[:0], GOOD[KEY].up[:, :0])}), "do not fit a projection"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down[0], GOOD[KEY].up)}), "do not fit a projection"),
        (Adapter(BASE, changed("down", (1, 31), float("nan"))), "not finite"),
        (Adapter(BASE, changed("up", (15, 1), float("-inf"))), "not finite"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down, GOOD[KEY].up, float("nan"))}), "not finite"),
        (Adapter(BASE, {KEY: Factors(GOOD[KEY].down, GOOD[KEY].up * 1e30, 1e30)}), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(made: Adapter, reason: str) -> None:
    with pytest.raises(AdapterRefused, match=reason):
        pack(made, MODULES, FLOAT32)
    assert len(pack(Adapter(BASE, GOOD), MODULES, FLOAT32).run) == 2 * 3 + 3 * 5


def test_values_that_a_dtype_cannot_hold_are_refused() -> None:
    made = Adapter(BASE, changed("down", (0, 0), 70_000.0))
    assert pack(made, MODULES, torch.bfloat16).run.isfinite().all()
    with pytest.raises(AdapterRefused, match="float16"):
        pack(made, MODULES, torch.float16)
