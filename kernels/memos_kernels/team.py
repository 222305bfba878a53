"""Running a compiled kernel on the threads that torch computes with: its OpenMP team.

After every operation of torch, the other threads of its team wait for the next one, turning, for some milliseconds.
Threads of our own would share the processor with them for that long; the team takes work at once. So a kernel is handed
to ``GOMP_parallel``, the entry point of GNU OpenMP (libgomp ABI), in the very library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTES = ir.IntType(8).as_pointer()
_WORD = ir.IntType(64)


class Team:
    """torch's OpenMP team, and where in memory compiled kernels begin."""

    def __init__(self, entry: int) -> None:
        self._entry = entry
        self._addresses: dict[tuple[Any, ...], int] = {}

    def run(self, kernel: Any, threads: int, arguments: tuple[Any, ...]) -> None:
        """Call ``kernel(*arguments)`` in each of ``threads`` threads and wait for all. Raises ``MemoryError``."""
        key = (kernel, *map(_kind, arguments))
        address = self._addresses.get(key)
        if address is None:
            address = self._addresses[key] = _address(kernel, arguments)
        if _everywhere(self._entry, threads, address, arguments):
            raise MemoryError(f"no memory for {kernel.py_func.__module__}")


_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True  # a team does not survive a fork, and GNU OpenMP would wait for it


os.register_at_fork(after_in_child=_after_fork)


def team() -> Team | None:
    """Return torch's team; None where torch has no GNU OpenMP, or in a process that was forked."""
    return None if _forked else _team()


@lru_cache(maxsize=1)
def _team() -> Team | None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    # Of several copies, torch's is the one that it brought.
    for path in sorted(paths, key=lambda path: "torch" not in path):
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            return Team(int(ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0))
    return None


def _kind(argument: Any) -> Any:
    """Return what numba compiles an argument for."""
    if isinstance(argument, np.ndarray):
        return argument.dtype.num, argument.ndim, argument.flags.num
    return type(argument)


def _address(kernel: Any, arguments: tuple[Any, ...]) -> int:
    """Compile a kernel for arguments, or find it compiled, and return where it begins."""
    signature = tuple(numba.typeof(argument) for argument in arguments)
    kernel.compile(signature)
    found = kernel.overloads[signature]
    return int(found.library.get_pointer_to_function(found.fndesc.llvm_func_name))


@intrinsic
def _parallel(typing: Any, entry: Any, threads: Any, address: Any, arguments: Any) -> Any:
    """Call the kernel at ``address`` with the tuple ``arguments`` in all threads; return how many of them failed."""
    kinds = list(arguments.types)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        entry_, threads_, address_, arguments_ = values
        shared = ir.LiteralStructType([_WORD, _WORD, arguments_.type])  # address, failures, arguments
        data = cgutils.alloca_once(builder, shared)
        for place, value in enumerate((address_, ir.Constant(_WORD, 0), arguments_)):
            builder.store(value, cgutils.gep_inbounds(builder, data, 0, place))
        body = _trampoline(context, builder.module, shared, kinds)
        whole = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [body.type, _BYTES, whole, whole])
        start = builder.inttoptr(entry_, kind.as_pointer())
        builder.call(
            start, [body, builder.bitcast(data, _BYTES), builder.trunc(threads_, whole), ir.Constant(whole, 0)]
        )
        return builder.load(cgutils.gep_inbounds(builder, data, 0, 1))

    return types.int64(types.int64, types.int64, types.int64, arguments), generate


def _trampoline(context: Any, module: Any, shared: Any, kinds: list[Any]) -> Any:
    """Return ``void f(void *shared)``: what a thread of the team runs."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES])
    function = ir.Function(module, kind, module.get_unique_name("memos_team"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    data = builder.bitcast(function.args[0], shared.as_pointer())
    callee = context.call_conv.get_function_type(types.none, kinds)
    start = builder.load(cgutils.gep_inbounds(builder, data, 0, 0))
    values = cgutils.unpack_tuple(builder, builder.load(cgutils.gep_inbounds(builder, data, 0, 2)))
    slots = [cgutils.alloca_once(builder, slot.pointee) for slot in callee.args[:2]]  # result, exception
    for slot in slots:
        builder.store(cgutils.get_null_value(slot.type.pointee), slot)
    flat = context.get_arg_packer(kinds).as_arguments(builder, values)
    code = builder.call(builder.inttoptr(start, callee.as_pointer()), [*slots, *flat])
    # 0 and -2 (for None) are numba's codes of a return.
    fine = [builder.icmp_signed("==", code, ir.Constant(code.type, number)) for number in (0, -2)]
    failed = builder.not_(builder.or_(*fine))
    count = cgutils.gep_inbounds(builder, data, 0, 1)
    builder.atomic_rmw("add", count, builder.zext(failed, _WORD), "monotonic")
    builder.ret_void()
    return function


@njit(cache=True, nogil=True)
def _everywhere(entry: int, threads: int, address: int, arguments: Any) -> int:
    failures: int = _parallel(entry, threads, address, arguments)
    return failures
