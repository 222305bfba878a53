"""Who runs when: pieces of prompts beside decodes, adapters that are still being read, requests that do not fit yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from memos.activation.kv import KVShape
from memos.errors import InvalidInput, MemosError
from memos.parametric.adapter import Adapter, Factors
from memos.runtime import scheduler as module
from memos.runtime.admission import Admission
from memos.runtime.packing import Modules
from memos.runtime.pool import PagePool, PageShape
from memos.runtime.request import Job
from memos.runtime.scheduler import BESIDE_TOKENS, PASSES, STEP_TOKENS, Scheduler
from memos.runtime.sequence import Sequence
from memos.runtime.uses import AdapterUse

SHAPE = KVShape(1, 1, 8, "float32")
#: Every projection is one slot wide: an adapter of rank 8 for one of them takes a page, 16 tokens take two.
CHUNKS = np.full((7, 2), 1, np.int32)

Make = Callable[..., Scheduler]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make schedulers of a model with one layer whose every row is as wide as a key."""
    made: list[Scheduler] = []

    def build(pages: int = 2_000) -> Scheduler:
        pool = PagePool(PageShape.of(SHAPE, [8]), pages, torch.device("cpu"))
        made.append(Scheduler(Admission(pool, Modules("base", 1, CHUNKS, 8))))
        return made[-1]

    yield build
    for one in made:
        one.admission.ahead.close()


def job(tokens: int, growth: int = 0, owner: str = "", share: bool = False, **how: object) -> Job:
    return Job(Sequence([1] * tokens, SHAPE, growth=growth), owner=owner, share=share, **how)  # type: ignore[arg-type]


def adapter(seed: int = 0, rank: int = 8) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, 8, generator=random), torch.randn(8, rank, generator=random)
    return Adapter("base", {(0, "mlp.up_proj"): Factors(down, up)})


def use(seed: int = 0) -> AdapterUse:
    made = adapter(seed)
    return AdapterUse(made.digest, lambda: made)


class Slow:
    """An adapter whose file arrives when it is let."""

    def __init__(self, seed: int = 0) -> None:
        self.arrived = threading.Event()
        self.adapter = adapter(seed)
        self.use = AdapterUse(self.adapter.digest, self.read)

    def read(self) -> Adapter:
        assert self.arrived.wait(30)
        return self.adapter


def enrol(scheduler: Scheduler, *jobs: Job) -> None:
    for one in jobs:
        scheduler.enrol(one)


def forward(scheduler: Scheduler) -> dict[Job, int]:
    """Run the next forward, without a model, once there is one; return how many tokens each job had.

    A job whose pages are full is done.
    """
    scheduler.reap()
    while (scheduled := scheduler.next_batch()) is None and scheduler.stalled:
        time.sleep(0.001)
    if scheduled is None:
        return {}
    jobs, batch = scheduled
    counts = [part.tokens for part in batch.parts]
    assert counts == sorted(counts, key=lambda count: count > 1)  # single rows first
    for one, part in zip(jobs, batch.parts, strict=True):
        assert part.sequence is one.sequence
        one.sequence.advance(part.tokens)
        if not one.sequence.waiting:
            if one.sequence.paged == one.sequence.room:
                one.end()
            else:
                one.sequence.tokens.append(1)
    scheduler.ran(jobs, batch, 0.0)
    return dict(zip(jobs, counts, strict=True))


def read(scheduler: Scheduler, used: AdapterUse) -> None:
    """Wait until an adapter is read."""
    scheduler.admission.ahead.ask(used.digest, adapter).exception(30)


def all_given_back(scheduler: Scheduler) -> bool:
    pool = scheduler.admission.pool
    return scheduler.idle and pool.free + scheduler.admission.residents.idle_pages == pool.pages


# ------------------------------------------------------------------ pieces


def test_prompt_alone_runs_in_full_steps(make: Make) -> None:
    scheduler, long = make(), job(STEP_TOKENS * 2 + 10)
    enrol(scheduler, long)
    assert [forward(scheduler)[long] for _ in range(3)] == [STEP_TOKENS, STEP_TOKENS, 10]
    assert long.done


def test_prompt_beside_decodes_runs_in_small_pieces(make: Make) -> None:
    scheduler = make()
    speaking = [job(5, growth=100), job(7, growth=100)]
    enrol(scheduler, *speaking)
    forward(scheduler)
    long = [job(BESIDE_TOKENS * 2 + 10), job(50)]
    enrol(scheduler, *long)
    pieces = [forward(scheduler) for _ in range(4)]
    assert all(piece[one] == 1 for piece in pieces for one in speaking)  # nobody waits
    assert [sum(count for one, count in piece.items() if one in long) for piece in pieces] == [
        BESIDE_TOKENS,
        BESIDE_TOKENS,
        60,
        0,
    ]
    assert long[0].done
    assert long[1].done


def test_short_prompts_share_a_step(make: Make) -> None:
    scheduler = make()
    jobs = [job(200, growth=5) for _ in range(3)]
    enrol(scheduler, *jobs)
    assert list(forward(scheduler).values()) == [200, 200, STEP_TOKENS - 400]


def test_no_piece_crosses_a_seam(make: Make) -> None:
    scheduler = make()
    one = Job(Sequence([1] * 100, SHAPE, seam=37))
    enrol(scheduler, one)
    assert [forward(scheduler)[one] for _ in range(2)] == [37, 63]


# ------------------------------------------------------------------ adapters being read


@pytest.mark.parametrize("first", [True, False])
def test_adapter_being_read_holds_up_nobody(make: Make, first: bool) -> None:
    scheduler, slow = make(), Slow()
    reading, bare, other = job(20, adapters=(slow.use,)), job(20, growth=5), job(20, growth=2)
    enrol(scheduler, *((reading, bare) if first else (bare, reading)), other)
    while not (bare.done and other.done):
        assert reading not in forward(scheduler)
    slow.arrived.set()
    assert forward(scheduler) == {reading: 20}  # nothing else runs: it is waited for
    forward(scheduler)
    assert all_given_back(scheduler)


def test_adapter_being_read_holds_up_nobody_however_long(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSES", 2)
    scheduler, slow = make(), Slow()
    reading, speaking = job(20, adapters=(slow.use,)), job(4, growth=100)
    enrol(scheduler, reading, speaking)
    for _ in range(10):
        other = job(20)
        enrol(scheduler, other)
        assert other in forward(scheduler)
    slow.arrived.set()
    read(scheduler, slow.use)
    assert reading in forward(scheduler)


def test_adapters_of_who_waits_are_read_once(make: Make) -> None:
    scheduler, reads = make(), []
    made = adapter()

    def load() -> Adapter:
        reads.append(made.digest)
        return made

    jobs = [job(20, growth=3, adapters=(AdapterUse(made.digest, load),)) for _ in range(5)]
    enrol(scheduler, *jobs)
    while not all(one.done for one in jobs):
        forward(scheduler)
    enrol(scheduler, job(20, adapters=(AdapterUse(made.digest, load),)))
    forward(scheduler)
    assert len(reads) == 1
    use = scheduler.admission.use()
    assert (use.hits, use.misses) == (5, 1)


def test_adapter_that_could_not_be_read_is_read_anew(make: Make) -> None:
    scheduler, made, failures = make(), adapter(), [MemosError("the disk is away")]

    def load() -> Adapter:
        if failures:
            raise failures.pop()
        return made

    first, second = (job(20, adapters=(AdapterUse(made.digest, load),)) for _ in range(2))
    enrol(scheduler, first)
    assert forward(scheduler) == {}
    assert str(first.error) == "the disk is away"
    scheduler.reap()
    assert scheduler.idle
    enrol(scheduler, second)
    assert forward(scheduler) == {second: 20}


def test_adapters_of_equal_forwards_are_laid_out_once(make: Make) -> None:
    scheduler = make()
    jobs = [job(1, growth=9, adapters=(use(1),)), job(1, growth=9, adapters=(use(2), use(1)))]
    enrol(scheduler, *jobs)
    forward(scheduler)
    read(scheduler, use(1))
    read(scheduler, use(2))
    forward(scheduler)
    scheduled, again = scheduler.next_batch(), scheduler.next_batch()
    assert scheduled is not None
    assert again is not None
    assert len(scheduled[0]) == 2
    step = scheduled[1].adapters
    assert step is not None
    assert again[1].adapters is step
    assert sorted(np.diff(step.starts)) == [1, 2]
    jobs[0].end()
    scheduler.reap()
    last = scheduler.next_batch()
    assert last is not None
    assert last[1].adapters is not None
    assert last[1].adapters.tokens == 1


# ------------------------------------------------------------------ room


def test_what_does_not_fit_is_passed_so_often_and_no_more(make: Make) -> None:
    scheduler = make(pages=40)  # 20 blocks
    speaking = job(1, growth=159)  # ten blocks, for a while
    enrol(scheduler, speaking)
    forward(scheduler)
    large = job(15 * 16)
    enrol(scheduler, large)
    small = [job(8) for _ in range(PASSES + 20)]
    enrol(scheduler, *small)
    before = [one for _ in range(40) for one in forward(scheduler)]
    assert large not in before
    assert sum(one in before for one in small) == PASSES
    after = [one for _ in range(200) for one in forward(scheduler)]
    assert after.count(speaking) == 160 - 41
    assert after.index(large) == after.count(speaking)  # as soon as there is room
    assert all(one in before + after for one in small)
    assert all_given_back(scheduler)


def test_several_that_pass_at_once_are_counted_each(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSES", 3)
    scheduler = make(pages=40)
    enrol(scheduler, job(1, growth=159))
    forward(scheduler)
    enrol(scheduler, job(15 * 16), *(job(8) for _ in range(8)))
    assert len(forward(scheduler)) == 1 + 3


def test_more_than_the_pool_is_refused_at_once(make: Make) -> None:
    scheduler = make(pages=40)
    with pytest.raises(InvalidInput, match="MEMOS_POOL_BYTES"):
        scheduler.enrol(job(16 * 20, growth=1))
    assert scheduler.idle
    scheduler.enrol(job(16 * 20))


def test_more_with_its_adapters_than_the_pool_ends_alone(make: Make) -> None:
    scheduler = make(pages=40)
    large, other = job(16 * 20, adapters=(use(),)), job(20)
    enrol(scheduler, large)
    assert forward(scheduler) == {}
    assert isinstance(large.error, InvalidInput)
    enrol(scheduler, other)
    assert forward(scheduler) == {other: 20}
    forward(scheduler)
    assert all_given_back(scheduler)


def test_only_so_many_run_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RUNNING", 3)
    scheduler = make()
    jobs = [job(4, growth=3) for _ in range(5)]
    enrol(scheduler, *jobs)
    sizes = []
    while not all(one.done for one in jobs):
        sizes.append(len(forward(scheduler)))
    assert sizes == [3, 3, 3, 3, 2, 2, 2, 2]


# ------------------------------------------------------------------ leaving


@pytest.mark.parametrize("how", ["leave", "reap"])
def test_cancelled_while_waiting_leaves_the_queue(make: Make, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(module, "MOST_RUNNING", 1)
    scheduler = make()
    first, waiting, last = job(4, growth=3), job(4, growth=3, adapters=(use(),)), job(4)
    enrol(scheduler, first, waiting, last)
    forward(scheduler)
    waiting.end()
    if how == "leave":
        scheduler.leave(waiting)
        assert waiting not in list(scheduler._queue.fair_order())
    ran = [one for _ in range(6) for one in forward(scheduler)]
    assert waiting not in ran
    assert last in ran
    assert all_given_back(scheduler)


def test_cancelled_while_it_is_passed_is_not_counted_any_more(make: Make) -> None:
    scheduler = make(pages=40)
    enrol(scheduler, job(1, growth=159))
    forward(scheduler)
    large = job(15 * 16)
    enrol(scheduler, large, job(8))
    forward(scheduler)
    assert scheduler._passed == {id(large): 1}
    scheduler.leave(large)
    assert scheduler._passed == {}


def test_cancelled_while_running_gives_everything_back(make: Make) -> None:
    scheduler = make()
    one = job(20, growth=50, share=True, adapters=(use(),))
    enrol(scheduler, one)
    forward(scheduler)
    assert not all_given_back(scheduler)
    one.end()
    forward(scheduler)
    assert all_given_back(scheduler)
    assert scheduler.admission.residents.idle_pages == 3  # the adapter, and a block of its prompt
    scheduler.leave(one)
    assert all_given_back(scheduler)


# ------------------------------------------------------------------ sharing and forgetting


def test_prompt_is_shared_as_far_as_it_ran(make: Make) -> None:
    scheduler = make()
    first, second = job(70, growth=50, share=True), job(70, share=True)
    enrol(scheduler, first)
    forward(scheduler)
    enrol(scheduler, second)
    assert forward(scheduler)[second] == 70 - 64
    assert second.sequence.reused == 64
    first.end()
    forward(scheduler)
    assert all_given_back(scheduler)
    assert scheduler.admission.residents.idle_pages == 8


@pytest.mark.parametrize("running", [True, False])
def test_nothing_of_a_forgotten_owner_is_shared(make: Make, monkeypatch: pytest.MonkeyPatch, running: bool) -> None:
    """Not even prompts that were on their way when a memory in them was forgotten."""
    monkeypatch.setattr(module, "MOST_RUNNING", 1)
    scheduler = make()
    if not running:
        enrol(scheduler, job(4, growth=3, owner="other"))
    mine = job(STEP_TOKENS + 100, owner="owner", share=True)
    enrol(scheduler, mine)
    forward(scheduler)
    assert bool(mine.sequence.cached) == running
    scheduler.drop(["owner"])
    while not mine.done:
        forward(scheduler)
    forward(scheduler)
    assert all_given_back(scheduler)
    assert len(scheduler.admission.residents) == 0
    again = job(STEP_TOKENS, owner="owner", share=True)
    enrol(scheduler, again)
    forward(scheduler)
    assert again.sequence.reused == 0
