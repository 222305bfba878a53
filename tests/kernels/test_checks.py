"""Arguments that do not fit: refused with ``ValueError`` before a bit of memory is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import memos_kernels
from memos_kernels import LoraPlan, QuantisedPages, RankRows, plan_lora

Same = Callable[[torch.Tensor, torch.Tensor], None]
Arguments = dict[str, Any]


def table(*rows: Any, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Return a page table."""
    return torch.tensor(rows, dtype=dtype)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor of a shape."""
    return torch.zeros(shape, dtype=dtype)


def slanted(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor of a shape that is not contiguous."""
    return torch.zeros((*shape, 2), dtype=dtype)[..., 0]


def elsewhere(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor on another device."""
    return torch.empty(shape, dtype=dtype, device="meta")


def pages(**changes: Any) -> QuantisedPages:
    """Return a pool of three quantised pages of 4 tokens, two heads of 6 elements."""
    parts: Arguments = {
        "keys": zeros(3, 2, 4, 6, dtype=torch.uint8),
        "values": zeros(3, 2, 4, 6, dtype=torch.uint8),
        "key_ranges": zeros(3, 2, 2, 6, dtype=torch.float16),
        "value_ranges": zeros(3, 2, 2, 4, dtype=torch.float16),
        "bits": 8,
    }
    return QuantisedPages(**(parts | changes))


STARTS = table(0, 2, 3)
ROWS = RankRows(table([0, 1], [2, 3], [4, 5]), STARTS)
PLAN = plan_lora([[(0, 1.0)], [], [(1, 2.0), (0, 0.5)]], STARTS)


def good() -> dict[str, Arguments]:
    """Return arguments that fit, by function."""
    turn = torch.ones(1, 3), zeros(1, 3)
    attention = {
        "query": zeros(3, 4, 6), "keys": zeros(5, 2, 4, 6), "values": zeros(5, 2, 4, 6),
        "table": table([[0, 1], [2, 3]], [[4, 4], [0, 0]], [[1, 9], [1, 9]]), "lengths": table(7, 5, 2),
        "scaling": 1.0, "log_weights": zeros(5, 2, 4),
    }  # fmt: skip
    return {
        "gather_pages": {"pools": zeros(3, 2, 4, 6), "table": table([2, 0]), "out": zeros(2, 2, 7, 6)},
        "scatter_pages": {"source": zeros(1, 2, 7, 6), "pools": zeros(3, 2, 4, 6), "table": table([2, 0])},
        "rotate_keys": {"keys": zeros(2, 5, 6), "cosine": zeros(5, 3), "sine": zeros(5, 3), "out": zeros(2, 5, 6)},
        "quantise_pages": {"cache": zeros(1, 2, 2, 7, 6), "into": pages(), "table": table([2, 0]), "angles": turn},
        "dequant_rotate_gather": {
            "source": pages(), "table": table([2, 0]), "tokens": 7, "out": zeros(4, 2, 7, 6),
            "out_table": table([[3], [0]]), "angles": turn,
        },
        "paged_attention_decode": attention,
        "paged_attention_prefill": attention | {"starts": table(0, 1, 1, 3), "causal": True},
        "combine_lse": {"outputs": [zeros(5, 2, 6)] * 2, "lses": [zeros(5, 2)] * 2},
        "token_scores": {
            "query": zeros(3, 4, 6), "keys": zeros(5, 2, 4, 6), "table": table(4, 0), "length": 7, "scaling": 1.0,
            "log_weights": zeros(5, 2, 4),
        },
        "lora_shrink": {"x": zeros(3, 8), "pool": zeros(6, 4), "down": ROWS, "plan": PLAN},
        "lora_expand": {
            "y": zeros(PLAN.ranks), "pool": zeros(6, 4), "up": ROWS, "plan": PLAN, "out": zeros(3, 8),
        },
    }  # fmt: skip


HALF, WHOLE, WIDE = torch.float16, torch.int32, torch.int64
COPIES: list[tuple[str, Any]] = [
    ("a pool is", {"pools": zeros(3, 2, 4, 6, dtype=HALF)}),
    ("do not fit", {"pools": [zeros(3, 2, 4, 6)] * 3}),
    ("a pool has shape", {"pools": zeros(3, 1, 4, 6)}),
    ("a pool has shape", {"pools": zeros(3, 2, 4, 5)}),
    ("a pool has shape", {"pools": zeros(3, 2, 4)}),
    ("no tokens", {"pools": zeros(3, 2, 0, 6)}),
    ("contiguous", {"pools": slanted(3, 2, 4, 6)}),
    ("one device", {"pools": elsewhere(3, 2, 4, 6)}),
    ("int32", {"table": table([2, 0], dtype=WIDE)}),
    ("do not fit", {"table": table([2, 0], [2, 0], [2, 0])}),
    ("do not fit", {"table": table(2)}),
    ("1 blocks; 2", {"table": table([2])}),
    ("outside the pool", {"table": table([2, 3])}),
    ("outside the pool", {"table": table([-1, 0])}),
    ("one device", {"table": elsewhere(1, 2, dtype=WHOLE)}),
]
CODES, RANGES = torch.uint8, torch.float16
POOLS: list[tuple[str, Any]] = [
    ("uint8", {"keys": zeros(3, 2, 4, 6, dtype=torch.int8)}),
    ("contiguous", {"values": slanted(3, 2, 4, 6, dtype=CODES)}),
    ("contiguous", {"keys": slanted(3, 2, 4, 6, dtype=CODES)}),
    ("values has shape", {"values": zeros(2, 2, 4, 6, dtype=CODES)}),
    ("has shape", {"keys": zeros(3, 2, 4, 3, dtype=CODES)}),
    ("has shape", {"key_ranges": zeros(3, 2, 2, 5, dtype=RANGES)}),
    ("float16", {"key_ranges": zeros(3, 2, 2, 6)}),
    ("value_ranges has shape", {"value_ranges": zeros(3, 2, 4, 2, dtype=RANGES)}),
    ("float16", {"value_ranges": zeros(3, 2, 2, 4, dtype=torch.bfloat16)}),
    ("5 bits", {"bits": 5}),
    ("shape", {"bits": 4}),
    ("one device", {"value_ranges": elsewhere(3, 2, 2, 4, dtype=RANGES)}),
]
QUANTISED: list[tuple[str, Any]] = [
    ("int32", {"table": table([2, 0], dtype=WIDE)}),
    ("shape", {"table": table([2, 0], [1, 0])}),
    ("shape", {"table": table(2)}),
    ("1 blocks; 2", {"table": table([2])}),
    ("outside the pool", {"table": table([2, 3])}),
    ("cosine has shape", {"angles": (zeros(6, 3), zeros(6, 3))}),
    ("sine has shape", {"angles": (zeros(7, 3), zeros(1, 3))}),
    ("cosine has shape", {"angles": (zeros(1, 6), zeros(1, 6))}),
    ("float32", {"angles": (zeros(1, 3, dtype=HALF), zeros(1, 3))}),
    ("contiguous", {"angles": (slanted(7, 3), zeros(7, 3))}),
    ("one device", {"angles": (zeros(1, 3), elsewhere(1, 3))}),
]
ATTENTION: list[tuple[str, Any]] = [
    ("query is", {"query": zeros(3, 4, 6, dtype=torch.float64)}),
    ("query has shape", {"query": zeros(3, 24)}),
    ("contiguous", {"query": slanted(3, 4, 6)}),
    ("cannot share", {"query": zeros(3, 5, 6)}),
    ("no tokens", {"keys": zeros(5, 0, 4, 6)}),
    ("keys has shape", {"query": zeros(3, 4, 8)}),
    ("keys are", {"keys": zeros(5, 2, 4, 6, dtype=HALF)}),
    ("contiguous", {"keys": slanted(5, 2, 4, 6)}),
    ("no tokens", {"keys": zeros(5, 2, 0, 6)}),
    ("log_weights has shape", {"log_weights": zeros(5, 4, 4)}),
    ("log_weights is", {"log_weights": zeros(5, 2, 4, dtype=HALF)}),
    ("contiguous", {"log_weights": slanted(5, 2, 4)}),
    ("one device", {"log_weights": elsewhere(5, 2, 4)}),
]
SEQUENCES: list[tuple[str, Any]] = [
    ("values has shape", {"values": zeros(5, 2, 3, 6)}),
    ("values has shape", {"values": zeros(4, 2, 4, 6)}),
    ("keys are", {"values": zeros(5, 2, 4, 6, dtype=HALF)}),
    ("contiguous", {"values": slanted(5, 2, 4, 6)}),
    ("int32", {"table": zeros(3, 2, 2, dtype=WIDE)}),
    ("table has shape", {"table": zeros(3, 2, dtype=WHOLE)}),
    ("table has shape", {"table": zeros(2, 2, 2, dtype=WHOLE)}),
    ("contiguous", {"table": slanted(3, 2, 2, dtype=WHOLE)}),
    ("too few blocks", {"table": zeros(3, 2, 1, dtype=WHOLE)}),
    ("outside the pool", {"table": table([[0, 1], [2, 5]], [[4, 4], [0, 0]], [[1, 9], [1, 9]])}),
    ("outside the pool", {"table": table([[0, -1], [2, 3]], [[4, 4], [0, 0]], [[1, 9], [1, 9]])}),
    ("int32", {"lengths": table(7, 5, 2, dtype=WIDE)}),
    ("lengths has shape", {"lengths": table([7, 7], [5, 5], [2, 2])}),
    ("contiguous", {"lengths": slanted(3, dtype=WHOLE)}),
    ("fewer keys", {"lengths": table(7, -5, 2)}),
    ("too few blocks", {"lengths": table(9, 5, 2)}),
    ("one device", {"lengths": elsewhere(3, dtype=WHOLE)}),
]
LORA: list[tuple[str, Any]] = [
    ("pool is", {"pool": zeros(6, 4, dtype=HALF)}),
    ("tokens has shape", {"pool": zeros(6, 3)}),
    ("contiguous", {"pool": slanted(6, 4)}),
    ("pool has shape", {"pool": zeros(24)}),
    ("outside the pool", {"pool": zeros(5, 4)}),
    ("one device", {"pool": elsewhere(6, 4)}),
]


def ranked(**changes: Any) -> RankRows:
    """Return where rank rows are, some of it changed."""
    return ROWS._replace(**changes)


def planned(**changes: Any) -> LoraPlan:
    """Return a plan, some of it changed."""
    return PLAN._replace(**changes)


RANKED: list[tuple[str, RankRows]] = [
    ("int32", ranked(slots=zeros(3, 2, dtype=WIDE))),
    ("outside the pool", ranked(slots=table([0, 1], [2, 3], [4, 6]))),
    ("outside the pool", ranked(slots=table([0, 1], [2, 3], [-4, 5]))),
    ("slots has shape", ranked(slots=zeros(6, dtype=WHOLE))),
    ("tokens has shape", ranked(slots=zeros(3, 1, dtype=WHOLE))),
    ("contiguous", ranked(slots=slanted(3, 2, dtype=WHOLE))),
    ("int32", ranked(starts=STARTS.long())),
    ("starts has shape", ranked(starts=table([0, 2, 3]))),
    ("contiguous", ranked(starts=slanted(3, dtype=WHOLE))),
    ("starts must rise", ranked(starts=table(0, 2, 4))),
    ("starts must rise", ranked(starts=table(0, -1, 3))),
    ("plan", ranked(starts=table(0, 1, 3))),
    ("plan", ranked(starts=table(0, 3))),
]
BAD: dict[str, list[tuple[str, Any]]] = {
    "gather_pages": [
        *COPIES,
        ("a pool is", {"out": zeros(2, 2, 7, 6, dtype=HALF)}),
        ("contiguous side has shape", {"out": zeros(2, 7, 6)}),
        ("contiguous", {"out": slanted(2, 2, 7, 6)}),
        ("a pool has shape", {"pools": [zeros(3, 2, 4, 6), zeros(3, 2, 5, 6)]}),
        ("outside the pool of 2", {"pools": [zeros(3, 2, 4, 6), zeros(2, 2, 4, 6)]}),
    ],
    "scatter_pages": [*COPIES, ("contiguous", {"source": slanted(1, 2, 7, 6)})],
    "rotate_keys": [
        ("keys is", {"keys": zeros(2, 5, 6, dtype=WHOLE)}),
        ("keys has shape", {"keys": zeros(5, 6)}),
        ("contiguous", {"keys": slanted(2, 5, 6)}),
        ("out is", {"out": zeros(2, 5, 6, dtype=HALF)}),
        ("out has shape", {"out": zeros(2, 6, 6)}),
        ("contiguous", {"out": slanted(2, 5, 6)}),
        ("no halves", {"keys": zeros(2, 5, 7), "out": zeros(2, 5, 7)}),
        ("cosine has shape", {"cosine": zeros(4, 3)}),
        ("sine has shape", {"sine": zeros(1, 3)}),
        ("float32", {"sine": zeros(5, 3, dtype=torch.float64)}),
        ("contiguous", {"cosine": slanted(5, 3)}),
        ("one device", {"cosine": elsewhere(5, 3)}),
        ("one device", {"sine": elsewhere(5, 3)}),
    ],
    "quantise_pages": [
        *QUANTISED,
        *((says, {"into": pages(**change)}) for says, change in POOLS),
        ("cache is", {"cache": zeros(1, 2, 2, 7, 6, dtype=WHOLE)}),
        ("cache has shape", {"cache": zeros(1, 2, 1, 7, 6)}),
        ("cache has shape", {"cache": zeros(2, 2, 7, 6)}),
        ("contiguous", {"cache": slanted(1, 2, 2, 7, 6)}),
    ],
    "dequant_rotate_gather": [
        *QUANTISED,
        *((says, {"source": pages(**change)}) for says, change in POOLS),
        ("out is", {"out": zeros(4, 2, 7, 6, dtype=WHOLE)}),
        ("out has shape", {"out": zeros(4, 3, 7, 6)}),
        ("contiguous", {"out": slanted(4, 2, 7, 6)}),
        ("no tokens", {"out": zeros(4, 2, 0, 6)}),
        ("out_table has shape", {"out_table": table([3, 0])}),
        ("out_table is", {"out_table": table([[3], [0]], dtype=WIDE)}),
        ("outside the pool of 4", {"out_table": table([[4], [0]])}),
        ("1 blocks; 2", {"out": zeros(4, 2, 6, 6)}),
        ("blocks", {"tokens": 9}),
        ("-1 tokens", {"tokens": -1}),
    ],
    "paged_attention_decode": [*ATTENTION, *SEQUENCES, ("rows|shape", {"query": zeros(4, 4, 6)})],
    "paged_attention_prefill": [
        *ATTENTION,
        *SEQUENCES,
        ("fewer keys", {"lengths": table(7, 5, 1)}),
        ("starts has shape", {"starts": table(0, 1, 3)}),
        ("int32", {"starts": table(0, 1, 1, 3, dtype=WIDE)}),
        ("starts must rise from 0", {"starts": table(0, 1, 1, 2)}),
        ("starts must rise from 0", {"starts": table(0, 2, 1, 3)}),
        ("starts must rise from 0", {"starts": table(1, 1, 1, 3)}),
    ],
    "combine_lse": [
        ("0 outputs", {"outputs": [], "lses": []}),
        ("2 outputs with 1", {"lses": [zeros(5, 2)]}),
        ("an output has shape", {"outputs": [zeros(5, 2, 6), zeros(5, 2, 5)]}),
        ("log-sum-exp has shape", {"lses": [zeros(5, 2), zeros(5, 1)]}),
        ("log-sum-exps of", {"lses": [zeros(5, 2, dtype=HALF)] * 2}),
        ("outputs of", {"outputs": [zeros(5, 2, 6), zeros(5, 2, 6, dtype=HALF)]}),
        ("outputs is", {"outputs": [zeros(5, 2, 6, dtype=WHOLE)] * 2}),
        ("contiguous", {"outputs": [zeros(5, 2, 6), slanted(5, 2, 6)]}),
        ("contiguous", {"lses": [slanted(5, 2), zeros(5, 2)]}),
        ("one device", {"outputs": [zeros(5, 2, 6), elsewhere(5, 2, 6)]}),
    ],
    "token_scores": [
        *ATTENTION,
        ("0 keys", {"length": 0}),
        ("2 keys for 3 rows", {"length": 2}),
        ("2 blocks; 3", {"length": 9}),
        ("table has shape", {"table": table([4, 0])}),
        ("contiguous", {"table": slanted(2, dtype=WHOLE)}),
        ("int32", {"table": table(4, 0, dtype=WIDE)}),
        ("outside the pool", {"table": table(4, 5)}),
    ],
    "lora_shrink": [
        *LORA,
        *((says, {"down": rows}) for says, rows in RANKED),
        ("tokens is", {"x": zeros(3, 8, dtype=WHOLE)}),
        ("tokens has shape", {"x": zeros(4, 8)}),
        ("contiguous", {"x": slanted(3, 8)}),
    ],
    "lora_expand": [
        *LORA,
        *((says, {"up": rows}) for says, rows in RANKED),
        ("tokens has shape", {"out": zeros(3, 12)}),
        ("contiguous", {"out": slanted(3, 8)}),
        ("y has shape", {"y": zeros(PLAN.ranks + 1)}),
        ("y is", {"y": zeros(PLAN.ranks, dtype=HALF)}),
        ("one device", {"y": elsewhere(PLAN.ranks)}),
    ],
}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor of an argument that can be read."""
    if isinstance(value, torch.Tensor):
        if not value.is_meta:
            yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


@pytest.mark.parametrize("name", BAD)
def test_arguments_that_fit_are_taken(name: str) -> None:
    getattr(memos_kernels, name)(**good()[name])


@pytest.mark.parametrize(
    ("name", "says", "change"),
    [
        pytest.param(name, says, change, id=f"{name}-{at}-{'-'.join(change)}")
        for name, refused in BAD.items()
        for at, (says, change) in enumerate(refused)
    ],
)
def test_arguments_that_do_not_fit_are_refused(name: str, says: str, change: Arguments, same: Same) -> None:
    arguments = good()[name] | change
    before = [tensor.clone() for tensor in tensors(list(arguments.values()))]
    with pytest.raises(ValueError, match=says):
        getattr(memos_kernels, name)(**arguments)
    for tensor, copy in zip(tensors(list(arguments.values())), before, strict=True):
        same(tensor, copy)
