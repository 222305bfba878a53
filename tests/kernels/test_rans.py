"""The entropy coder's kernel: exact round trips, and streams that are not its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memos_kernels.rans import BITS, decoding_table, rans_decode, rans_encode


def frequencies(classes: int, alphabet: int, seed: int) -> NDArray[np.int64]:
    """Random frequencies of ``alphabet`` symbols; the others cannot be coded."""
    generator = np.random.default_rng(seed)
    table = np.zeros((classes, 256), np.int64)
    weights = generator.exponential(size=(classes, alphabet)) ** 3
    spare = (1 << BITS) - alphabet
    table[:, :alphabet] = 1 + np.floor(spare * weights / weights.sum(1, keepdims=True)).astype(np.int64)
    table[:, 0] += (1 << BITS) - table.sum(1)
    return table


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Symbols ``[rows, columns]``, a class per row, frequencies."""
    seed = draw(st.integers(0, 1 << 32))
    generator = np.random.default_rng(seed)
    rows, columns = draw(st.integers(0, 20)), draw(st.integers(0, 70))
    classes, alphabet = draw(st.integers(1, 5)), draw(st.integers(2, 256))
    symbols = generator.integers(0, alphabet, (rows, columns)).astype(np.uint8)
    return symbols, generator.integers(0, classes, rows).astype(np.uint8), frequencies(classes, alphabet, seed)


@given(problems())
def test_stream_decodes_to_the_symbols(
    problem: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    symbols, classes, table = problem
    out = np.empty_like(symbols)
    rans_decode(rans_encode(symbols, classes, table), classes, decoding_table(table), out)
    assert np.array_equal(out, symbols)


@given(problems(), st.data())
def test_damaged_stream_is_refused_or_decoded(
    problem: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]], data: st.DataObject
) -> None:
    symbols, classes, table = problem
    stream = rans_encode(symbols, classes, table)
    at = data.draw(st.integers(0, len(stream) - 1))
    kind = data.draw(st.sampled_from(("cut", "flip", "longer")))
    if kind == "flip":
        stream[at] ^= np.uint16(1 << data.draw(st.integers(0, 15)))
        out = np.empty_like(symbols)
        try:
            rans_decode(stream, classes, decoding_table(table), out)
        except ValueError:
            return
        assert not np.array_equal(out, symbols)
        return
    damaged = stream[:at] if kind == "cut" else np.concatenate([stream, stream[:1]])
    with pytest.raises(ValueError, match="rANS"):
        rans_decode(damaged, classes, decoding_table(table), np.empty_like(symbols))


@given(st.integers(0, 1 << 32), st.integers(0, 400))
def test_noise_never_leaves_its_buffers(seed: int, length: int) -> None:
    generator = np.random.default_rng(seed)
    guarded = np.full((5, 30), 7, np.uint8)
    stream = generator.integers(0, 1 << 16, length).astype(np.uint16)
    with pytest.raises(ValueError, match="rANS"):
        rans_decode(stream, np.zeros(3, np.uint8), decoding_table(frequencies(1, 40, 0)), guarded[1:4])
    assert (guarded[[0, 4]] == 7).all()


def test_rate_is_close_to_the_entropy() -> None:
    table = frequencies(1, 32, 1)
    share = table[0] / (1 << BITS)
    symbols = np.random.default_rng(0).choice(256, (8, 4096), p=share).astype(np.uint8)
    entropy = -(share[:32] * np.log2(share[:32])).sum()
    coded = rans_encode(symbols, np.zeros(8, np.uint8), table)
    assert 16 * len(coded) / symbols.size == pytest.approx(entropy, abs=0.02)


def test_symbol_that_cannot_be_coded_is_refused() -> None:
    with pytest.raises(ValueError, match="frequency zero"):
        rans_encode(np.full((1, 3), 9, np.uint8), np.zeros(1, np.uint8), frequencies(1, 4, 0))


@pytest.mark.parametrize("classes", [np.array([0, 1], np.uint8), np.array([0], np.uint8), np.array([0, 0], np.int64)])
def test_class_out_of_range_is_refused(classes: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="class"):
        rans_decode(np.zeros(64, np.uint16), classes, decoding_table(frequencies(1, 4, 0)), np.empty((2, 9), np.uint8))


@pytest.mark.parametrize("row", [[4096], [4000, 95], [-1, 4097]])
def test_frequencies_that_do_not_add_up_are_refused(row: list[int]) -> None:
    table = np.zeros((1, 256), np.int64)
    table[0, : len(row)] = row
    with pytest.raises(ValueError, match="4096"):
        decoding_table(table)
