"""Work that uses the model between the steps of requests: turns are taken, given back, and refused once closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from memos.errors import StoreClosed
from memos.runtime.loop import Request, Runtime

pytestmark = pytest.mark.timeout(300)  # the first test loads the model


def pieces(count: int, seen: list[int]) -> Iterator[None]:
    for number in range(count):
        seen.append(number)
        yield


def test_work_runs_to_its_end(runtime: Runtime) -> None:
    seen: list[int] = []
    runtime.interleave(pieces(3, seen))
    assert seen == [0, 1, 2]


def test_requests_go_on_between_the_pieces(runtime: Runtime) -> None:
    answering = runtime.generate(Request(tuple(range(5, 40)), max_tokens=30))
    next(answering)
    seen: list[int] = []
    runtime.interleave(pieces(29, seen))  # each piece is followed by a step for all
    assert runtime.idle
    assert len(answering.finish().tokens) <= 30


def test_work_that_fails_gives_its_turn_back(runtime: Runtime) -> None:
    def failing() -> Iterator[None]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        runtime.interleave(failing())
    assert runtime.generate(Request(tuple(range(5, 20)), max_tokens=2)).finish().tokens


def test_nobody_else_runs_during_a_piece(runtime: Runtime) -> None:
    running: list[str] = []

    def work(name: str) -> Iterator[None]:
        for _ in range(20):
            assert not running, "two pieces at once"
            running.append(name)
            threading.Event().wait(0.001)
            running.remove(name)
            yield

    threads = [threading.Thread(target=runtime.interleave, args=(work(str(number)),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runtime.idle


def test_closed_runtime_refuses_work(runtime: Runtime) -> None:
    runtime.close()
    with pytest.raises(StoreClosed):
        runtime.interleave(pieces(1, []))
