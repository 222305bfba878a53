"""How adapters reach unmodified modules: a hook on every projection adds what the running forward's adapters say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from memos.runtime.batch import Batch
from memos.runtime.packing import projections
from memos_kernels import apply_adapters


class _Running(threading.local):
    batch: Batch | None = None


_running = _Running()


@contextmanager
def running(batch: Batch) -> Iterator[None]:
    """Make a batch the one that this thread's forward runs."""
    _running.batch = batch
    try:
        yield
    finally:
        _running.batch = None


def install(model: torch.nn.Module) -> None:
    """Put the hooks on a model, which changes nothing outside of :func:`running`."""
    for index, linear in enumerate(projections(model)):
        linear.register_forward_hook(partial(_add, index))


def _add(index: int, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    batch = _running.batch
    if batch is not None and batch.adapters is not None:
        apply_adapters(inputs[0][0], batch.pool.slots, batch.adapters, index, output[0])
