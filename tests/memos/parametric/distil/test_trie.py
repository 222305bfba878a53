"""Packed sequences: what is shared is there once, and each is computed as if alone."""

from __future__ import annotations

import torch

from memos.parametric.distil.trie import pack, packs
from memos.parametric.distil.twin import Twin
from memos.runtime.host import Serving

SEQUENCES = [(5, 6, 7, 8), (5, 6, 9), (5, 6, 7), (1, 2, 3, 4, 5)]


def test_shared_beginnings_are_packed_once() -> None:
    packed = pack(SEQUENCES)
    assert packed.tokens.tolist() == [5, 6, 7, 8, 9, 1, 2, 3, 4, 5]
    assert packed.positions.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 3, 4]
    assert packed.rows[2] == packed.rows[0][:3]
    assert packed.visible[4].nonzero().flatten().tolist() == [0, 1, 4]


def test_packed_sequences_are_computed_as_if_alone(tiny: Serving) -> None:
    twin = Twin(tiny.loaded)
    packed = pack(SEQUENCES)
    together = twin.hidden(packed)
    for sequence, rows in zip(SEQUENCES, packed.rows, strict=True):
        alone = twin.hidden(pack([sequence]))
        torch.testing.assert_close(together[list(rows)], alone, atol=1e-5, rtol=1e-5)


def test_twin_says_what_the_serving_model_says(tiny: Serving) -> None:
    twin = Twin(tiny.loaded)
    packed = pack(SEQUENCES[:1])
    expected = torch.log_softmax(tiny.runtime.logits(SEQUENCES[0]), -1)
    torch.testing.assert_close(twin.log_probabilities(twin.hidden(packed)), expected, atol=1e-4, rtol=1e-4)


def test_packs_are_cut_before_they_are_too_long() -> None:
    found = list(packs(SEQUENCES, limit=7))
    assert [(first, len(packed.rows)) for first, packed in found] == [(0, 2), (2, 1), (3, 1)]
    assert [len(packed.rows) for _, packed in packs(SEQUENCES, limit=1)] == [1, 1, 1, 1]
