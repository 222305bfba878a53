"""How Triton kernels are launched: on the device of their arguments, in the interpreter, or only recorded.

With ``TRITON_INTERPRET=1``, set before Triton is imported, kernels run in NumPy on CPU tensors, some milliseconds for
each program. Recorded launches are what :mod:`memos_kernels.triton_aot` compiles for devices that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import triton


class Tile(NamedTuple):
    """The compile-time constants of a kernel, and how it is compiled.

    ``fused`` lets a multiplication and an addition round once. Where results must be the reference's bit for bit, they
    round twice. ``registers`` limits a thread's; without, the assembler may spill a few to fit one more program in.
    """

    constants: dict[str, int]
    warps: int = 4
    stages: int = 1
    fused: bool = False
    registers: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """What Triton's compiler is told."""
        return {
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": self.fused,
            "maxnreg": self.registers,
        }


class Launch(NamedTuple):
    """A kernel with a tile and arguments, in the kernel's order."""

    kernel: Any
    tile: Tile
    arguments: tuple[Any, ...]


_recording: ContextVar[list[Launch] | None] = ContextVar("recording", default=None)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of making them; what launchers return is not initialised then."""
    launches: list[Launch] = []
    token = _recording.set(launches)
    try:
        yield launches
    finally:
        _recording.reset(token)


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, *arguments: Any) -> None:
    """Run a kernel; nothing where the grid is empty. Tensors behind pointer tables go through :func:`pointers`."""
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    refuse_bfloat16(*tensors)
    recording = _recording.get()
    if recording is not None:
        recording.append(Launch(kernel, tile, arguments))
    elif all(grid):
        with torch.cuda.device_of(tensors[0]):
            kernel[grid](*arguments, **tile.constants, **tile.options)


def pointers(tensors: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return the addresses of tensors as int64, on the device that will follow them."""
    refuse_bfloat16(*tensors)
    return torch.tensor([tensor.data_ptr() for tensor in tensors], dtype=torch.int64).to(device)


def refuse_bfloat16(*tensors: torch.Tensor) -> None:
    """Raise ``ValueError`` for bfloat16 in the interpreter, which computes with the bits (triton-lang/triton#4972)."""
    if interpreted() and any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        raise ValueError("Triton's interpreter is silently wrong for bfloat16; use float32 or float16")


def interpreted() -> bool:
    """Return whether Triton kernels run in the interpreter."""
    return bool(triton.knobs.runtime.interpret)


def power_of_two(size: int, least: int) -> int:
    """Return the power of two to pad a size to. Tensor cores multiply no fewer than 16; each size is a kernel more."""
    return max(least, int(triton.next_power_of_2(size)))
