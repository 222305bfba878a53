"""Choosing the form of an operation: Triton for CUDA tensors, numba for the CPU, plain PyTorch where those are missing.

Every operation is a package with up to three modules of the same functions: ``reference`` (float32 maths, the oracle),
``cpu`` and ``gpu``. :func:`use_reference` rules the other two out.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

FORMS = ("reference", "cpu", "gpu")
_ruled_out: set[str] = set()


def run(operation: str, function: str, leading: torch.Tensor, *arguments: Any) -> Any:
    """Call ``function(*arguments)`` in the form of ``operation`` that suits the device of ``leading``.

    A form that is not there, or that numba cannot compile on this machine, is replaced by the reference, with one
    warning. Compiling comes before anything is written, so that nothing is done twice.
    """
    form = "gpu" if leading.is_cuda else "cpu" if leading.device.type == "cpu" else "reference"
    form = "reference" if operation in _failed and form == "cpu" else form
    implementation = _implementation(operation, function, form)
    if form != "cpu":
        return implementation(*arguments)
    try:
        return implementation(*arguments)
    except _compiler_errors() as error:
        _warn(f"numba cannot compile {operation} here ({type(error).__name__})")
        _failed.add(operation)
        return _implementation(operation, function, "reference")(*arguments)


def use_reference() -> None:
    """Run everything as plain PyTorch from now on, such as to find out whether a kernel is to blame."""
    _ruled_out.update(("cpu", "gpu"))
    _implementation.cache_clear()


def available(form: str) -> bool:
    """Return whether a form can be used here at all: its compiler is installed and not ruled out."""
    if form == "reference":
        return True
    return form not in _ruled_out and importlib.util.find_spec("numba" if form == "cpu" else "triton") is not None


@lru_cache(maxsize=256)
def _implementation(operation: str, function: str, form: str) -> Callable[..., Any]:
    compiler = "numba" if form == "cpu" else "triton"
    if not available(form):
        if form not in _ruled_out:
            _warn(f"{compiler} is not installed")
        form = "reference"
    try:
        module = importlib.import_module(f"memos_kernels.{operation}.{form}")
    except (ImportError, RuntimeError) as error:  # numba beside a NumPy too new for it, or with no folder for its cache
        if form == "reference":
            raise
        _warn(f"{compiler} cannot be used ({error})")
        module = importlib.import_module(f"memos_kernels.{operation}.reference")
    found: Callable[..., Any] = getattr(module, function)
    return found


@lru_cache(maxsize=1)
def _compiler_errors() -> tuple[type[Exception], ...]:
    if not available("cpu"):
        return ()
    from numba.core.errors import NumbaError

    return (NumbaError,)


#: Operations that numba could not compile.
_failed: set[str] = set()
_warned: set[str] = set()


def _warn(reason: str) -> None:
    if "slow" not in _warned:
        _warned.add("slow")
        warnings.warn(f"{reason}: kernels run as plain PyTorch, many times slower", RuntimeWarning, stacklevel=4)
