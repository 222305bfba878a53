"""What numba has no words for, written in LLVM's: register tiles, streaming stores, 16-bit floats, a vectorisable exp.

All arrays are flat and C-contiguous. Kernels see 16-bit floats as words: bfloat16 as uint16, float16 as int16
(:func:`words`). Everything here is plain LLVM vectors and scalars, which any target lowers to what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I16 = ir.IntType(16)
_I64 = ir.IntType(64)
_I8 = ir.IntType(8)
#: Elements of the vectors used: one AVX2 register, two of NEON.
LANES = 8
_VECTOR = ir.VectorType(F32, LANES)
#: Bytes that one streaming store writes, and must be aligned to.
_STREAM = 32
#: Bytes of a cache line.
_LINE = 64
_BYTES = ir.VectorType(_I8, _STREAM)


def words(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a contiguous CPU tensor flat, as kernels see it, without a copy."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().reshape(-1).view(np.uint16)
    if tensor.dtype == torch.float16:
        return tensor.detach().view(torch.int16).numpy().reshape(-1)
    return tensor.detach().numpy().reshape(-1)


def pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Return the address of element ``at`` of an array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def call(builder: Any, name: str, *arguments: Any) -> Any:
    """Call an LLVM intrinsic on float32, or on vectors of them."""
    kind = arguments[0].type
    full = f"llvm.{name}.{f'v{kind.count}' if isinstance(kind, ir.VectorType) else ''}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(arguments)), full)
    return builder.call(function, arguments)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a b + c``, fused where the machine can."""
    return call(builder, "fmuladd", a, b, c)


def constant(value: float, lanes: int = 1) -> ir.Constant:
    """Return a float32, or a vector of the same one."""
    single = float(np.float32(value))
    return ir.Constant(_wide(F32, lanes), [single] * lanes if lanes > 1 else single)


def splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
    """Return a vector of one value, or the value itself for one lane."""
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(F32, lanes), ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def reduced(builder: Any, vector: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Return a vector's elements joined by an operation, by halves."""
    width = LANES
    while width > 1:
        width //= 2
        upper = [width + i if i < width else i for i in range(LANES)]
        moved = builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_I32, LANES), upper))
        vector = join(vector, moved)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def summed(builder: Any, vector: Any) -> Any:
    """Return the sum of a vector's elements."""
    return reduced(builder, vector, builder.fadd)


def _vector(builder: Any, place: Any) -> Any:
    """Return a pointer to a vector that begins at a float32."""
    return builder.bitcast(place, _VECTOR.as_pointer())


# ------------------------------------------------------------ 16-bit floats


def widened(builder: Any, word: Any, value: Any, lanes: int = 1) -> Any:
    """Return words as float32: float32 itself, uint16 as bfloat16, int16 as float16."""
    if word == types.float32:
        return value
    floats, whole, half = (_wide(kind, lanes) for kind in (F32, _I32, ir.HalfType()))
    if word == types.uint16:
        return builder.bitcast(builder.shl(builder.zext(value, whole), _integer(16, lanes)), floats)
    return builder.fpext(builder.bitcast(value, half), floats)


def narrowed(builder: Any, word: Any, value: Any, lanes: int = 1, *, finite: bool = False) -> Any:
    """Return float32 rounded to the nearest word, ties to even. ``finite`` says that all values are numbers."""
    if word == types.float32:
        return value
    whole, half, short = (_wide(kind, lanes) for kind in (_I32, ir.HalfType(), _I16))
    if word == types.int16:
        return builder.bitcast(builder.fptrunc(value, half), short)
    bits = builder.bitcast(value, whole)
    odd = builder.and_(builder.lshr(bits, _integer(16, lanes)), _integer(1, lanes))
    rounded = builder.add(bits, builder.add(odd, _integer(0x7FFF, lanes)))
    if not finite:  # what is not a number must not round to infinity
        quiet = builder.or_(bits, _integer(0x400000, lanes))
        rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(rounded, _integer(16, lanes)), short)


def _wide(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _integer(value: int, lanes: int) -> Any:
    return ir.Constant(_wide(_I32, lanes), [value] * lanes if lanes > 1 else value)


@intrinsic
def widen(typing: Any, word: Any) -> Any:
    """Return the float32 of one word."""
    return types.float32(word), lambda context, builder, signature, arguments: widened(builder, word, arguments[0])


@intrinsic
def narrow(typing: Any, value: Any, like: Any) -> Any:
    """Return one float32 rounded to a word of the type that the array ``like`` has."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return narrowed(builder, like.dtype, arguments[0])

    return like.dtype(types.float32, like), generate


# ------------------------------------------------------------ exponential


def exponential(builder: Any, value: Any) -> Any:
    """Return e^x of a float32 or a vector of them, for x <= 88, within 2 units in the last place; 0 below -87.

    With ``n = round(x log2 e)`` and ``r = x - n ln 2``, ``2^n p(r)``: the reduction and the polynomial of Cephes' expf
    (S. Moshier). Without a call, so that loops around it vectorise.
    """
    kind = value.type
    whole = ir.VectorType(_I32, LANES) if kind == _VECTOR else _I32

    def real(number: float) -> Any:
        return constant(number, LANES if kind == _VECTOR else 1)

    def integer(number: int) -> Any:
        return ir.Constant(whole, [number] * LANES if kind == _VECTOR else number)

    below = builder.fcmp_ordered("<", value, real(-87.0))
    x = builder.select(below, real(-87.0), value)
    n = call(builder, "floor", multiply_add(builder, x, real(1.44269504088896341), real(0.5)))
    r = multiply_add(builder, n, real(-0.693359375), x)
    r = multiply_add(builder, n, real(2.12194440e-4), r)
    p = real(1.9875691500e-4)
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = multiply_add(builder, p, r, real(term))
    p = builder.fadd(multiply_add(builder, p, builder.fmul(r, r), r), real(1.0))
    power = builder.shl(builder.add(builder.fptosi(n, whole), integer(127)), integer(23))
    return builder.select(below, real(0.0), builder.fmul(p, builder.bitcast(power, kind)))


@intrinsic
def exp(typing: Any, value: Any) -> Any:
    """Return :func:`exponential` of a float32."""
    return types.float32(types.float32), lambda context, builder, signature, arguments: exponential(
        builder, arguments[0]
    )


# ------------------------------------------------------------ register tiles


def _make_tile(rows: int, vectors: int) -> Any:
    """Return an intrinsic that multiplies into ``rows`` × ``8 * vectors`` accumulators held in registers."""

    @intrinsic
    def tile(
        typing: Any,
        a: Any,
        a_at: Any,
        a_row: Any,
        a_column: Any,
        b: Any,
        b_at: Any,
        b_row: Any,
        c: Any,
        c_at: Any,
        c_row: Any,
        depth: Any,
        fresh: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            a_, a_at_, a_row_, a_column_, b_, b_at_, b_row_, c_, c_at_, c_row_, depth_, fresh_ = arguments
            left = pointer(context, builder, a, a_, a_at_)
            right = pointer(context, builder, b, b_, b_at_)
            sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(rows * vectors)]
            places = []
            for row in range(rows):
                start = builder.gep(
                    pointer(context, builder, c, c_, c_at_), [builder.mul(c_row_, ir.Constant(_I64, row))]
                )
                for vector in range(vectors):
                    place = builder.gep(start, [ir.Constant(_I64, LANES * vector)])
                    places.append(_vector(builder, place))
            with builder.if_else(fresh_) as (new, old):
                with new:
                    for total in sums:
                        builder.store(constant(0.0, LANES), total)
                with old:
                    for total, place in zip(sums, places, strict=True):
                        builder.store(builder.load(place, align=4), total)
            with cgutils.for_range(builder, depth_) as loop:
                offset = builder.mul(loop.index, a_column_)
                line = builder.gep(right, [builder.mul(loop.index, b_row_)])
                factors = []
                for vector in range(vectors):
                    place = builder.gep(line, [ir.Constant(_I64, LANES * vector)])
                    factors.append(builder.load(_vector(builder, place), align=4))
                for row in range(rows):
                    step = builder.add(offset, builder.mul(a_row_, ir.Constant(_I64, row)))
                    factor = splat(builder, builder.load(builder.gep(left, [step])))
                    for vector in range(vectors):
                        total = sums[row * vectors + vector]
                        builder.store(multiply_add(builder, factor, factors[vector], builder.load(total)), total)
            for total, place in zip(sums, places, strict=True):
                builder.store(builder.load(total), place, align=4)

        whole = types.int64
        return types.void(a, whole, whole, whole, b, whole, whole, c, whole, whole, whole, types.boolean), generate

    return tile


#: ``c[i, j] += sum_k a[i, k] b[k, j]`` with ``c`` of 4 × 24, 8 × 8, and single rows of 24 and 8 elements; float32.
#: Arguments: a, its offset, row and column strides, b, offset, row stride, c, offset, row stride, the depth, and
#: whether ``c`` counts as 0 at first.
tile_4x24 = _make_tile(4, 3)
tile_1x24 = _make_tile(1, 3)
tile_8x8 = _make_tile(8, 1)
tile_1x8 = _make_tile(1, 1)


# ------------------------------------------------------------ softmax down 8 columns


@intrinsic
def soften(
    typing: Any, scores: Any, at: Any, rows: Any, row: Any, highest: Any, total: Any, shrink: Any, column: Any
) -> Any:
    """One step of the online softmax for 8 neighbouring columns of ``scores``, which become weights, in place::

        new = max(highest, max_t s[t]),   shrink = e^(highest - new),   s[t] = e^(s[t] - new)
        total = total shrink + sum_t s[t],   highest = new

    Rows begin at ``at`` and are ``row`` elements apart; ``highest``, ``total`` and ``shrink`` are read at ``column``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        scores_, at_, rows_, row_, highest_, total_, shrink_, column_ = arguments
        start = pointer(context, builder, scores, scores_, at_)
        places = [
            _vector(builder, pointer(context, builder, kind, array, column_))
            for kind, array in ((highest, highest_), (total, total_), (shrink, shrink_))
        ]
        old = builder.load(places[0], align=4)
        most, sums = cgutils.alloca_once_value(builder, old), cgutils.alloca_once(builder, _VECTOR)
        with cgutils.for_range(builder, rows_) as loop:
            line = builder.load(_vector(builder, builder.gep(start, [builder.mul(loop.index, row_)])), align=4)
            builder.store(call(builder, "maxnum", builder.load(most), line), most)
        new = builder.load(most)
        less = exponential(builder, builder.fsub(old, new))
        builder.store(builder.fmul(builder.load(places[1], align=4), less), sums)
        with cgutils.for_range(builder, rows_) as loop:
            place = _vector(builder, builder.gep(start, [builder.mul(loop.index, row_)]))
            weight = exponential(builder, builder.fsub(builder.load(place, align=4), new))
            builder.store(weight, place, align=4)
            builder.store(builder.fadd(builder.load(sums), weight), sums)
        for value, place in zip((new, builder.load(sums), less), places, strict=True):
            builder.store(value, place, align=4)

    whole = types.int64
    return types.void(scores, whole, whole, whole, highest, total, shrink, whole), generate


@intrinsic
def scale_columns(typing: Any, matrix: Any, at: Any, rows: Any, row: Any, factors: Any, column: Any) -> Any:
    """Multiply 8 neighbouring columns of a matrix by ``factors[column .. column + 7]``, in place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        matrix_, at_, rows_, row_, factors_, column_ = arguments
        start = pointer(context, builder, matrix, matrix_, at_)
        by = builder.load(_vector(builder, pointer(context, builder, factors, factors_, column_)), align=4)
        with cgutils.for_range(builder, rows_) as loop:
            place = _vector(builder, builder.gep(start, [builder.mul(loop.index, row_)]))
            builder.store(builder.fmul(builder.load(place, align=4), by), place, align=4)

    whole = types.int64
    return types.void(matrix, whole, whole, whole, factors, whole), generate


# ------------------------------------------------------------ copies


@intrinsic
def address(typing: Any, array: Any, at: Any) -> Any:
    """Return the address of element ``at``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(pointer(context, builder, array, *arguments), _I64)

    return types.int64(array, types.int64), generate


@intrinsic
def copy(typing: Any, target: Any, source: Any, size: Any, past: Any) -> Any:
    """Copy ``size`` bytes between two addresses; ``past`` the caches, if alignment allows.

    That is for results larger than a cache, whose lines a plain store would read first. Others see it after
    :func:`memos_kernels.threads.finish`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        target_, source_, size_, past_ = arguments
        into, out_of = (builder.inttoptr(place, _I8.as_pointer()) for place in (target_, source_))
        odd = builder.and_(builder.or_(target_, size_), ir.Constant(_I64, _STREAM - 1))
        fits = builder.icmp_unsigned("==", odd, ir.Constant(_I64, 0))
        with builder.if_else(builder.and_(fits, past_)) as (streamed, other):
            with streamed:
                _stream(builder, into, out_of, size_)
            with other:
                cgutils.raw_memcpy(builder, into, out_of, size_, 1)

    whole = types.int64
    return types.void(whole, whole, whole, types.boolean), generate


def _stream(builder: Any, into: Any, out_of: Any, total: Any) -> None:
    flag = builder.module.add_metadata([ir.Constant(_I32, 1)])
    vectors = builder.udiv(total, ir.Constant(_I64, _STREAM))
    with cgutils.for_range(builder, vectors) as loop:
        offset = builder.mul(loop.index, ir.Constant(_I64, _STREAM))
        place = builder.bitcast(builder.gep(out_of, [offset]), _BYTES.as_pointer())
        end = builder.bitcast(builder.gep(into, [offset]), _BYTES.as_pointer())
        store = builder.store(builder.load(place, align=1), end, align=_STREAM)
        store.set_metadata("nontemporal", flag)


@intrinsic
def prefetch(typing: Any, source: Any, at: Any, count: Any) -> Any:
    """Ask for ``count`` elements that are soon to be read: pages lie anywhere, which hardware cannot guess."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        source_, at_, count_ = arguments
        size = context.get_abi_sizeof(context.get_data_type(source.dtype))
        start = builder.bitcast(pointer(context, builder, source, source_, at_), _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        lines = builder.udiv(builder.mul(count_, ir.Constant(_I64, size)), ir.Constant(_I64, _LINE))
        with cgutils.for_range(builder, lines) as loop:
            place = builder.gep(start, [builder.mul(loop.index, ir.Constant(_I64, _LINE))])
            builder.call(function, [place, *(ir.Constant(_I32, flag) for flag in (0, 2, 1))])

    whole = types.int64
    return types.void(source, whole, whole), generate
