"""The drift: a mean that is added where it was measured, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from memos.activation.compose.drift import EDGES, Drift, DriftMeter
from memos.activation.kv import KVBlock, KVShape
from memos_kernels import delta_angles, rotate_keys

SHAPE = KVShape(layers=2, heads=2, head_dim=8, dtype="float32")
FREQUENCIES = torch.tensor([1.0, 0.3, 0.1, 0.01], dtype=torch.float64)
HEAD = 3


def random(tokens: int) -> torch.Tensor:
    return torch.randn(SHAPE.empty(tokens).shape, generator=torch.Generator().manual_seed(tokens))


def moved(data: torch.Tensor, first: int) -> torch.Tensor:
    """The rows behind the head of ``data``, at positions from ``first`` on."""
    rows = data[:, :, :, HEAD:].clone()
    angles = delta_angles(torch.tensor([HEAD]), torch.tensor([first]), FREQUENCIES)
    rows[:, 0] = rotate_keys(rows[:, 0].flatten(0, 1).contiguous(), *angles).view(rows[:, 0].shape)
    return rows


@pytest.mark.parametrize("tokens", [1, 7, 200])
def test_what_differs_always_is_found_and_undone(tokens: int) -> None:
    alone, whole = random(HEAD + tokens), random(50 + tokens)
    shift = torch.randn(SHAPE.layers, 2, SHAPE.heads, 1, SHAPE.head_dim)
    drifted = alone.clone()
    places = delta_angles(torch.zeros(1), torch.arange(HEAD + tokens), FREQUENCIES)
    there = shift.expand(-1, -1, -1, HEAD + tokens, -1).clone()
    there[:, 0] = rotate_keys(there[:, 0].flatten(0, 1).contiguous(), *places).view(there[:, 0].shape)
    drifted += there
    whole[:, :, :, 50:] = moved(drifted, 50)
    meter = DriftMeter(SHAPE, FREQUENCIES)
    meter.add(KVBlock(SHAPE, whole), 50, KVBlock(SHAPE, alone), HEAD)
    drift = meter.drift()
    assert torch.allclose(drift.mean, shift.expand_as(drift.mean), atol=1e-4)
    corrected = alone.clone()
    corrected[:, :, :, HEAD:] += drift.at(HEAD, tokens, FREQUENCIES)
    assert torch.allclose(moved(corrected, 50), whole[:, :, :, 50:], atol=1e-4)


def test_bytes_bring_it_back() -> None:
    drift = Drift(torch.randn(SHAPE.layers, 2, SHAPE.heads, len(EDGES), SHAPE.head_dim))
    assert torch.allclose(Drift.from_bytes(drift.to_bytes(), SHAPE).mean, drift.mean, atol=1e-2)
    with pytest.raises(RuntimeError):
        Drift.from_bytes(drift.to_bytes(), KVShape(3, 2, 8, "float32"))
