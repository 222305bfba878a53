"""What is done now and then: in time, not at once, and not in the way of an end."""

from __future__ import annotations

import threading
import time

from memos.errors import StoreUnavailable
from memos.schedule.ticker import Ticker
from memos.schedule.upkeep import Seldom


def test_work_has_its_turn_when_it_is_time() -> None:
    done: list[str] = []
    at_once, later = Seldom(lambda: done.append("at once"), 0.0), Seldom(lambda: done.append("later"), 3_600.0)
    for work in (at_once, later, at_once):
        work()
    assert done == ["at once", "at once"]


def test_long_work_ends_with_its_ticker() -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        while True:
            ticker.go_on()
            time.sleep(0.001)

    ticker = Ticker([work], 3_600.0)
    ticker.start()
    assert begun.wait(30)
    ticker.stop()


def test_store_that_is_away_is_tried_again() -> None:
    tried: list[int] = []
    again = threading.Event()

    def work() -> None:
        tried.append(len(tried))
        if len(tried) > 1:
            again.set()
        raise StoreUnavailable("away for a moment")

    ticker = Ticker([work], 0.001)
    ticker.start()
    assert again.wait(30)
    ticker.stop()


def test_ticker_that_never_began_can_be_stopped() -> None:
    Ticker([], 1.0).stop()
