"""The table of what all kernels take, as Markdown: the same text for the same kernels and version of Triton."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import NamedTuple

import torch

from memos_kernels.triton_aot import TARGETS, Resources, compiled
from memos_kernels.triton_aot.cases import OPERATIONS, cases, launches
from memos_kernels.triton_mode import Launch

_HEAD = """\
# GPU kernels: registers and shared memory

Written by `python -m memos_kernels.triton_aot --write docs/kernels-gpu.md` with Triton {version}, without a GPU: every
kernel in every tile, compiled to machine code for sm_80 (A100) and sm_90 (H100). Nothing here was timed.

Registers are those of a thread, of at most 255; shared memory is in bytes for a program, of at most
{limits}. No kernel spills registers, which `tests/kernels/test_triton_aot.py` asserts.

| operation | kernel | dtype | tile | warps | registers {names} | shared memory {names} |
|---|---|---|---|--:|--:|--:|
"""


class Line(NamedTuple):
    """A kernel in a tile: what identifies a line of the table."""

    operation: str
    kernel: str
    dtype: str
    tile: str
    warps: int


def lines(operation: str) -> dict[Line, Launch]:
    """Return every kernel and tile of an operation, with a launch of it."""
    found: dict[Line, Launch] = {}
    for case in cases(operation):
        for launch in launches(operation, case):
            found.setdefault(_line(operation, case.dtype, launch), launch)
    return found


def table(measured: Iterable[tuple[Line, dict[int, Resources]]]) -> str:
    """Return the table of lines and what they take by target."""
    head = _HEAD.format(
        version=version("triton"),
        limits=" and ".join(f"{limit:,} on sm_{target}" for target, limit in TARGETS.items()),
        names=" / ".join(f"sm_{target}" for target in TARGETS),
    )
    return head + "".join(f"{_row(line, taken)}\n" for line, taken in sorted(measured))


def measured() -> dict[Line, dict[int, Resources]]:
    """Compile everything: some minutes."""
    return {
        line: {target: compiled(launch, target) for target in TARGETS}
        for operation in OPERATIONS
        for line, launch in lines(operation).items()
    }


def read(text: str) -> set[Line]:
    """Return the lines that a table has."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]
    return {Line(row[0], row[1], row[2], row[3], int(row[4])) for row in rows[2:]}


def _line(operation: str, dtype: torch.dtype, launch: Launch) -> Line:
    tile = ", ".join(f"{name.removeprefix('block_')} {int(value)}" for name, value in launch.tile.constants.items())
    return Line(operation, launch.kernel.__name__.strip("_"), _dtype(launch, dtype), tile, launch.tile.warps)


def _dtype(launch: Launch, dtype: torch.dtype) -> str:
    """Return the dtype of a case, or of what bytes are moved as."""
    moved = launch.arguments[1].dtype if dtype == torch.uint8 else dtype
    return str(moved).removeprefix("torch.")


def _row(line: Line, taken: dict[int, Resources]) -> str:
    registers = " / ".join(str(taken[target].registers) for target in TARGETS)
    shared = " / ".join(f"{taken[target].shared:,}" for target in TARGETS)
    return f"| {' | '.join(map(str, line))} | {registers} | {shared} |"
