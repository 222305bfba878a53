"""How numba kernels share the processor: items of work, taken one by one by torch's threads, or by some of our own.

Numba's own ``prange`` is not used: its OpenMP layer ends a process that forks, its fallback one that calls from two
threads, and it compiles every kernel a second time. The team that torch computes with (:mod:`memos_kernels.team`) is
quickest; where there is none, helpers do: the caller never waits for one that has not begun, and one that comes late
finds nothing left to do.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from memos_kernels.team import team

#: Work (bytes moved or multiplications done) below which waking other threads costs more than it saves.
SMALL = 1 << 18
_NEXT, _DONE, _COUNT = range(3)
_log = logging.getLogger(__name__)

Work = NDArray[np.int64]


def launch(kernel: Any, items: int, cost: int, *arguments: Any) -> None:
    """Run a kernel over ``items`` independent items that cost ``cost`` in all, with torch's number of threads.

    ``kernel(work, *arguments)``, compiled without the GIL, does items for as long as :func:`take` returns one below
    ``items`` (``work[2]``), and calls :func:`finish` after each. No result may depend on who does what.
    """
    known, start = len(kernel.overloads), time.perf_counter()
    work = np.array([0, 0, items], np.int64)
    threads = min(items, torch.get_num_threads()) if cost >= SMALL else 1
    crew = team() if threads > 1 else None
    if threads < 2:
        kernel(work, *arguments)
    elif crew is not None:
        crew.run(kernel, threads, (work, *arguments))
    else:
        _share(_Job(kernel, work, arguments), threads - 1)
    if len(kernel.overloads) > known:
        _report(kernel, time.perf_counter() - start)


def _share(job: _Job, helpers: int) -> None:
    """Run a job in this thread and some helpers."""
    for _ in range(helpers):
        _helpers.submit(job)
    job.run()
    while job.work[_DONE] < job.work[_COUNT]:
        job.ended.get()
    if job.failure is not None:
        raise job.failure


def _report(kernel: Any, seconds: float) -> None:
    """Say what a first call cost: it is compiled once, then read from the disk by every process."""
    where = "read from numba's cache" if kernel.stats.cache_hits else "compiled, and kept for later processes"
    _log.info("%s.%s: %s, %.2f s", kernel.py_func.__module__, kernel.py_func.__name__, where, seconds)


class _Job:
    def __init__(self, kernel: Any, work: Work, arguments: tuple[Any, ...]) -> None:
        self.work = work
        self.ended: SimpleQueue[None] = SimpleQueue()
        self.failure: BaseException | None = None
        self._kernel = kernel
        self._arguments = arguments

    def run(self) -> None:
        self._kernel(self.work, *self._arguments)

    def help(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self.failure = error
            self.work[_DONE] = self.work[_COUNT]
        self.ended.put(None)


class _Helpers:
    """Threads that help with jobs; as many as were ever asked for at once."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._started = 0
        self._lock = threading.Lock()

    def submit(self, job: _Job) -> None:
        if self._started < torch.get_num_threads() - 1:
            self._start()
        self._jobs.put(job)

    def _start(self) -> None:
        with self._lock:
            if self._started < torch.get_num_threads() - 1:
                self._started += 1
                threading.Thread(target=self._serve, name="memos-kernels", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._jobs.get().help()


_helpers = _Helpers()


def _after_fork() -> None:
    global _helpers
    _helpers = _Helpers()  # threads do not survive a fork


os.register_at_fork(after_in_child=_after_fork)


# ------------------------------------------------------------ the kernels' side


@intrinsic
def take(typing: Any, work: Any) -> Any:
    """Return the next item that nobody has taken; there is none if it is not below ``work[2]``."""
    return types.int64(work), lambda *generation: _add(*generation, place=_NEXT, order="monotonic")


@intrinsic
def finish(typing: Any, work: Any) -> Any:
    """Count an item as done, after all that was written for it, streamed or not."""
    return types.int64(work), lambda *generation: _add(*generation, place=_DONE, order="seq_cst")


def _add(context: Any, builder: Any, signature: Any, arguments: Any, *, place: int, order: str) -> Any:
    base = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    if order == "seq_cst":
        builder.fence("seq_cst")
    one = ir.Constant(ir.IntType(64), 1)
    return builder.atomic_rmw("add", cgutils.gep_inbounds(builder, base, place), one, order)
