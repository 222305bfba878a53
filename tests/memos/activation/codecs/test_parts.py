"""The pieces of the chains: bit packing, rotation, scale tables, importance."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos.activation.codecs.bitpack import Bitpack
from memos.activation.codecs.importance import key_diff, most_important
from memos.activation.codecs.rans import RowRans, bits_of
from memos.activation.codecs.rope import BASES, likely_base, rotate
from memos.activation.codecs.scales import frequencies
from memos.activation.codecs.stages import Layout


@given(st.integers(1, 8), st.integers(0, 9), st.integers(0, 40), st.integers(0, 1 << 32))
def test_packed_bits_come_back(bits: int, rows: int, columns: int, seed: int) -> None:
    plane = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns)).astype(np.uint8)
    layout = Layout(rows, columns, bits)
    coded = Bitpack().encode(plane, layout)
    assert coded.nbytes <= rows * columns * bits / 8 + bits
    assert np.array_equal(Bitpack().decode(coded, layout), plane)


@given(st.integers(0, 9), st.integers(0, 40), st.floats(-2, 30), st.integers(0, 1 << 32))
def test_coded_levels_come_back(rows: int, columns: int, spread: float, seed: int) -> None:
    """Far beyond the alphabet too: such levels are escaped."""
    noise = np.random.default_rng(seed).standard_normal((rows, columns)) * 2**spread
    levels = np.rint(noise.clip(-(2**30), 2**30)).astype(np.int32)
    layout = Layout(rows, columns)
    assert np.array_equal(RowRans().decode(RowRans().encode(levels, layout), layout), levels.astype(np.float32))


def test_estimated_bits_are_those_of_the_stream() -> None:
    levels = np.rint(np.random.default_rng(0).logistic(size=(64, 2000)) * np.geomspace(0.1, 9, 64)[:, None])
    coded = RowRans().encode(levels.astype(np.int32), Layout(64, 2000))
    assert 8 * coded.nbytes == pytest.approx(bits_of(levels.astype(np.int32)).sum(), rel=0.01)


def test_scale_tables_are_those_that_files_were_written_with() -> None:
    """Another table reads every older file wrongly: a change needs a codec of another name."""
    digest = hashlib.sha256(frequencies().astype("<i8").tobytes()).hexdigest()
    assert digest == "1a242a3c62ae38f0fdb5380f4372f6e5a1696ba1050e97751c11de627b13bdab"


@pytest.mark.parametrize("base", BASES)
def test_rotary_base_is_found(base: float) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(2, 300, 64, generator=generator) + 4 * torch.randn(2, 1, 64, generator=generator)
    assert likely_base(rotate(plain, base)) == base


def test_rotation_is_undone() -> None:
    keys = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rotate(rotate(keys, 1e4, back=True), 1e4), keys, atol=1e-5)
    assert rotate(keys, 0.0) is keys


def test_key_unlike_the_others_is_important() -> None:
    keys = torch.ones(1, 20, 8) + 0.01 * torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    keys[0, 7] *= -1
    assert most_important(key_diff(keys), 0.05)[0].nonzero().tolist() == [[7]]


def test_equal_scores_go_to_the_earlier_token() -> None:
    assert most_important(torch.zeros(2, 4), 0.5).tolist() == [[True, True, False, False]] * 2
