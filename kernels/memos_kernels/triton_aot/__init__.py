"""Proof without a GPU: every Triton kernel, in every tile, compiled ahead of time for the devices it is meant for.

Launchers run on made-up CPU tensors and their launches are recorded, so that what is compiled has the arguments, the
alignment and the tile of a real launch. Triton's own compiler and assembler do the rest; no device is asked.
``python -m memos_kernels.triton_aot --write docs/kernels-gpu.md`` writes the table.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from memos_kernels.triton_mode import Launch, interpreted

#: Compute capabilities of the targets, with the bytes of shared memory that a program may have there.
TARGETS = {80: 163 << 10, 90: 227 << 10}

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.uint8: "u8",
}
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Resources(NamedTuple):
    """What a kernel takes: registers of a thread, bytes of its stack (registers spilled), bytes of shared memory."""

    registers: int
    spilled: int
    shared: int


def compiled(launch: Launch, target: int) -> Resources:
    """Compile a recorded launch for a compute capability. Raises ``ValueError`` if kernels are interpreted."""
    if interpreted():
        raise ValueError("nothing can be compiled with TRITON_INTERPRET set")
    binary = triton.compile(_source(launch), target=GPUTarget("cuda", target, 32), options=launch.tile.options)
    return _resources(binary.asm["cubin"], int(binary.metadata.shared))


def _source(launch: Launch) -> ASTSource:
    """Return a kernel specialised as Triton does at a launch: ones are constants, multiples of 16 are known to be."""
    signature: dict[str, str] = {}
    constants: dict[str, int] = dict(launch.tile.constants)
    attributes = {}
    for place, (name, argument) in enumerate(zip(launch.kernel.arg_names, launch.arguments, strict=False)):
        signature[name] = _type(argument)
        if signature[name] == "constexpr":
            constants[name] = argument
        elif _divisible(argument):
            attributes[(place,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(launch.tile.constants, "constexpr")
    return ASTSource(launch.kernel, signature, constants, attributes)


def _type(argument: torch.Tensor | int | float) -> str:
    if isinstance(argument, torch.Tensor):
        return f"*{_TYPES[argument.dtype]}"
    if isinstance(argument, int):
        return "constexpr" if argument == 1 else "i32" if -(2**31) <= argument < 2**31 else "i64"
    return "fp32"


def _divisible(argument: torch.Tensor | int | float) -> bool:
    """Return whether an address or a whole number is a multiple of 16."""
    number = argument.data_ptr() if isinstance(argument, torch.Tensor) else argument
    return isinstance(number, int) and number % 16 == 0


def _resources(cubin: bytes, shared: int) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_CUOBJDUMP), "--dump-resource-usage", file.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = dict(word.split(":", 1) for word in report.split() if ":" in word)
    return Resources(int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"]), shared)
