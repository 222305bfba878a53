"""Kernels that share the processor: helpers change no bit, and callers do not meet."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from textwrap import dedent

import pytest
import torch

from memos_kernels import (
    QuantisedPages,
    combine_lse,
    delta_angles,
    dequant_rotate_gather,
    gather_pages,
    lora_expand,
    lora_shrink,
    paged_attention_decode,
    paged_attention_prefill,
    plan_lora,
    quantise_pages,
    rotate_keys,
    scatter_pages,
    token_scores,
)
from memos_kernels.workloads import Heads, paged, popularity, random_tensor, rank_rows, sequences, shuffled_table

Same = Callable[[torch.Tensor, torch.Tensor], None]
Call = Callable[[], list[torch.Tensor]]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads; what it was before returns with the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def copying() -> Call:
    """Gather what was scattered."""
    dense = random_tensor((12, 3, 150, 64))
    pool, table = paged(dense, 16, spare=0)

    def call() -> list[torch.Tensor]:
        into, out = torch.zeros_like(pool), torch.empty_like(dense)
        scatter_pages(dense, into, table)
        return [gather_pages(into, table, out), into]

    return call


def storing() -> Call:
    """Quantise, load, rotate."""
    cache = random_tensor((6, 2, 3, 300, 64), torch.bfloat16)
    table, targets = shuffled_table(6, 19), torch.arange(12, dtype=torch.int32).view(6, 2, 1)
    angles = delta_angles(torch.arange(300), torch.arange(300) + 50, 1e4 ** (-torch.arange(32) / 32))

    def call() -> list[torch.Tensor]:
        pages, out = QuantisedPages.empty(6 * 19, 3, 16, 64, 4), torch.empty_like(cache.flatten(0, 1))
        errors = quantise_pages(cache, pages, table, angles)
        dequant_rotate_gather(pages, table, 300, out, targets, angles)
        return [out, *errors, *pages[:4], rotate_keys(out.flatten(0, 1), *angles)]

    return call


def attending() -> Call:
    """Decode, prefill, join, score."""
    lengths = [90, 300, 17, 256, 1, 128, 33, 250]
    one, many = (sequences(lengths, rows, Heads(9, 3, 64, 16)) for rows in ([1] * 8, [64, 20, 17, 30, 1, 128, 8, 9]))

    def call() -> list[torch.Tensor]:
        decoded = paged_attention_decode(one.query, *one[2:6], scaling=0.125, log_weights=one.log_weights)
        filled = paged_attention_prefill(*many[:6], scaling=0.125, causal=True)
        scored = token_scores(one.query, one.keys, one.table[1, 0], 300, scaling=0.125)
        return [*decoded, *filled, *combine_lse([filled[0]] * 3, [filled[1]] * 3), scored]

    return call


def adapting() -> Call:
    """Project down and up."""
    down_pool, down, _ = rank_rows([8, 3, 17, 5] * 16, 3, 64)
    up_pool, up, _ = rank_rows([8, 3, 17, 5] * 16, 1, 192)
    uses = [[(adapter, 0.5), (7, 2.0)] for adapter in popularity("skewed", 64)]
    plan, x = plan_lora(uses, down.starts), random_tensor((64, 192))

    def call() -> list[torch.Tensor]:
        y = lora_shrink(x, down_pool, down, plan)
        return [y, lora_expand(y, up_pool, up, plan, x.clone())]

    return call


WORK = [copying, storing, attending, adapting]


@pytest.mark.parametrize("work", WORK)
def test_number_of_threads_changes_no_bit(work: Callable[[], Call], threads: Callable[[int], None], same: Same) -> None:
    call = work()
    threads(1)
    alone = call()
    for count in (2, 5) * 3:
        threads(count)
        for shared, expected in zip(call(), alone, strict=True):
            same(shared, expected)


def test_eight_callers_at_once_get_what_one_gets(threads: Callable[[int], None], same: Same) -> None:
    threads(3)
    calls = [work() for work in WORK]
    expected = [call() for call in calls]
    start, failures = threading.Barrier(8), []

    def caller(which: int) -> None:
        start.wait()
        for turn in range(4):
            at = (which + turn) % len(calls)
            try:
                for have, want in zip(calls[at](), expected[at], strict=True):
                    same(have, want)
            except (AssertionError, RuntimeError, ValueError) as error:
                failures.append(error)

    callers = [threading.Thread(target=caller, args=(which,)) for which in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not failures


def test_process_that_forks_can_go_on_in_both() -> None:
    script = """
        import os, torch
        from memos_kernels import gather_pages
        from memos_kernels.workloads import paged, random_tensor

        torch.set_num_threads(3)
        dense = random_tensor((12, 3, 150, 64))
        pool, table = paged(dense, 16)

        def check():
            # Compared by NumPy: PyTorch's own threads do not survive a fork.
            return (gather_pages(pool, table, torch.empty_like(dense)).numpy() == dense.numpy()).all()

        assert check()
        child = os.fork()
        if not child:
            os._exit(0 if check() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert check()
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
