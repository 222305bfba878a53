"""The forms of the kernels under test, on the devices there are, and the one table of tolerances.

Without a CUDA device the Triton form runs in Triton's interpreter: some milliseconds for each program, and silently
wrong for bfloat16 (triton-lang/triton#4972). So it gets the first few shapes only, in float32 and float16.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ON_CUDA = torch.cuda.is_available()
if not ON_CUDA:
    # Read when triton is imported and when kernels are defined. Nothing else in this process defines any.
    os.environ["TRITON_INTERPRET"] = "1"

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = (torch.float32, torch.float16)
#: How many of a module's ``SHAPES`` the interpreter gets.
FIRST_SHAPES = 4

#: Relative and absolute, by dtype. Maths is float32 everywhere, rounded once: half a step of the dtype and, where two
#: float32 results fall on different sides of a boundary, a whole one.
TOLERANCES = {
    torch.float32: (1e-5, 1e-5),
    torch.float16: (2**-10, 1e-5),
    torch.bfloat16: (2**-7, 1e-5),
}


class Form:
    """One form of the kernels; calling it calls a function of an operation.

    Arguments live on the CPU. For a form on another device their whole storages travel there and back, so that views
    stay views, arguments that share memory share it there too, and what is written outside of a view is seen.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.device = "cuda" if name == "gpu" and ON_CUDA else "cpu"
        self.dtypes = INTERPRETED if name == "gpu" and not ON_CUDA else FLOATS

    def __call__(self, operation: str, function: str, *arguments: Any) -> Any:
        module = importlib.import_module(f"memos_kernels.{operation}.{self.name}")
        storages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        there = self._moved(arguments, storages)
        result = getattr(module, function)(*there)
        for here, moved in storages.values():
            here.copy_(moved)
        return _returned(result)

    def _moved(self, value: Any, storages: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> Any:
        if self.device == "cpu":
            return value
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in storages:
                here = torch.empty(0, dtype=torch.uint8).set_(storage)
                storages[storage.data_ptr()] = here, here.to(self.device)
            whole = storages[storage.data_ptr()][1].untyped_storage()
            view = torch.empty(0, dtype=value.dtype, device=self.device)
            return view.set_(whole, value.storage_offset(), value.shape, value.stride())
        if isinstance(value, (list, tuple)):
            parts = [self._moved(part, storages) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value


def _returned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, tuple):
        parts = [_returned(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``form`` in every form; with ``dtype`` and ``shape``, over its dtypes and ``SHAPES``."""
    if "form" not in metafunc.fixturenames:
        return
    names = [name for name in ("form", "dtype", "shape") if name in metafunc.fixturenames]
    shapes: list[Any] = list(getattr(metafunc.module, "SHAPES", [])) if "shape" in names else [None]
    rows: list[dict[str, Any]] = []
    for form in (Form("cpu"), Form("gpu")):
        interpreted = form.name == "gpu" and not ON_CUDA
        for at, shape in enumerate(shapes[:FIRST_SHAPES] if interpreted else shapes):
            # Each shape in one dtype is enough where a program takes milliseconds.
            dtypes = form.dtypes[at % 2 :][:1] if interpreted and "shape" in names else form.dtypes
            rows += [
                {"form": form, "dtype": dtype, "shape": shape} for dtype in (dtypes if "dtype" in names else [None])
            ]
    metafunc.parametrize(names, [[row[name] for name in names] for row in rows], ids=map(_label, rows))


def _label(row: dict[str, Any]) -> str:
    dtype = str(row["dtype"] or "").removeprefix("torch.")
    shape = "-".join(str(size).removeprefix("torch.") for size in row["shape"] or ())
    return "-".join(filter(None, (row["form"].name, dtype, shape)))


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """Assert that two results agree within their dtype's tolerance, and that nothing is not a number.

    ``terms``: how many products of numbers about 1 are summed up, which makes the sum's own error that much larger.
    """

    def check(actual: torch.Tensor, expected: torch.Tensor, terms: int = 1) -> None:
        relative, absolute = TOLERANCES[actual.dtype]
        torch.testing.assert_close(actual, expected, rtol=relative, atol=absolute * terms**0.5)

    return check


@pytest.fixture(scope="session")
def same() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Assert that two tensors are the same bit for bit, where they are not numbers too."""

    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert torch.equal(actual.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))

    return check


@pytest.fixture
def guarded() -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Copy a tensor into the middle of a larger allocation, whose ends must have kept their bits after the test."""
    margin, made = 67, []

    def place(tensor: torch.Tensor) -> torch.Tensor:
        edge = margin * tensor.element_size()
        whole = torch.full((tensor.nbytes + 2 * edge,), 0xA5, dtype=torch.uint8)
        made.append((whole, edge))
        view = whole.view(tensor.dtype)[margin:][: tensor.numel()].view(tensor.shape)
        return view.copy_(tensor)

    yield place
    for whole, edge in made:
        assert (whole[:edge] == 0xA5).all()
        assert (whole[-edge:] == 0xA5).all()
