"""Loops along rows in LLVM vectors, eight elements at a time and the rest one by one.

Numba cannot turn these into vectors by itself: it allows for indices below zero. Each function takes flat arrays and
offsets, and converts 16-bit floats (:mod:`memos_kernels.simd`) as it reads and writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from memos_kernels import simd
from memos_kernels.simd import LANES

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_I16 = ir.IntType(16)
_I8 = ir.IntType(8)
_WHOLE = types.int64
#: Vectors of loops that convert: two registers at a time where there are so many elements.
_CONVERTING = (2 * LANES, LANES, 1)


class _Row:
    """An array from some element on, read and written as float32 or as vectors of them (``lanes`` 1 or 8)."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
        self._builder = builder
        self._word = kind.dtype
        self._start = simd.pointer(context, builder, kind, array, at)

    def _place(self, at: Any, element: Any, lanes: int) -> Any:
        kind = _wide(element, lanes)
        return self._builder.bitcast(self._builder.gep(self._start, [at]), kind.as_pointer())

    def read(self, at: Any, lanes: int) -> Any:
        """Return elements as float32."""
        if self._word == types.float32:
            return self._builder.load(self._place(at, simd.F32, lanes), align=4)
        if self._word == types.uint8:
            return self._builder.sitofp(self.codes(at, lanes), _wide(simd.F32, lanes))
        word = self._builder.load(self._place(at, _I16, lanes), align=2)
        return simd.widened(self._builder, self._word, word, lanes)

    def codes(self, at: Any, lanes: int) -> Any:
        """Return bytes as 32-bit integers."""
        loaded = self._builder.load(self._place(at, _I8, lanes), align=1)
        return self._builder.zext(loaded, _wide(_I32, lanes))

    def write(self, at: Any, value: Any, lanes: int, *, finite: bool = False) -> None:
        """Store float32, rounded to the array's type; faster if what is not a number need not stay so."""
        element, align = (simd.F32, 4) if self._word == types.float32 else (_I16, 2)
        rounded = simd.narrowed(self._builder, self._word, value, lanes, finite=finite)
        self._builder.store(rounded, self._place(at, element, lanes), align=align)


def _wide(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _strips(builder: Any, count: Any, body: Callable[[Any, int], None], widths: tuple[int, ...] = (LANES, 1)) -> None:
    """Emit ``body(index, lanes)`` for all whole vectors of ``count`` elements, then for single ones."""
    start = ir.Constant(_I64, 0)
    for lanes in widths:
        stop = builder.and_(count, ir.Constant(_I64, -lanes))
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(_I64, lanes)) as (index, _):
            body(index, lanes)
        start = stop


def _turned(builder: Any, one: Any, other: Any, cosine: Any, sine: Any) -> tuple[Any, Any]:
    """Return both halves of a rotation."""
    first = builder.fsub(builder.fmul(one, cosine), builder.fmul(other, sine))
    return first, simd.multiply_add(builder, other, cosine, builder.fmul(one, sine))


@intrinsic
def rotate_row(
    typing: Any, keys: Any, at: Any, out: Any, out_at: Any, cosine: Any, sine: Any, angle: Any, half: Any
) -> Any:
    """Turn one key of ``2 * half`` elements by the angles from ``angle`` on; ``out`` may be ``keys``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        keys_, at_, out_, out_at_, cosine_, sine_, angle_, half_ = arguments
        source, target = _Row(context, builder, keys, keys_, at_), _Row(context, builder, out, out_, out_at_)
        turns = [_Row(context, builder, kind, array, angle_) for kind, array in ((cosine, cosine_), (sine, sine_))]

        def body(i: Any, lanes: int) -> None:
            later = builder.add(i, half_)
            pair = source.read(i, lanes), source.read(later, lanes)
            first, second = _turned(builder, *pair, *(turn.read(i, lanes) for turn in turns))
            target.write(i, first, lanes)
            target.write(later, second, lanes)

        _strips(builder, half_, body, _CONVERTING)

    return types.void(keys, _WHOLE, out, _WHOLE, cosine, sine, _WHOLE, _WHOLE), generate


@intrinsic
def convert_row(typing: Any, source: Any, at: Any, out: Any, out_at: Any, count: Any) -> Any:
    """Copy elements from one type of words to another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        source_, at_, out_, out_at_, count_ = arguments
        left, right = _Row(context, builder, source, source_, at_), _Row(context, builder, out, out_, out_at_)
        _strips(builder, count_, lambda i, lanes: right.write(i, left.read(i, lanes), lanes), _CONVERTING)

    return types.void(source, _WHOLE, out, _WHOLE, _WHOLE), generate


def floats(pool: Any, at: Any, count: Any, room: Any) -> tuple[Any, int]:
    """Return an array and an offset where elements ``at .. at + count - 1`` of a pool are as float32.

    That is the pool itself if it is of float32, else ``room`` ``[count]``, which they are converted into.
    """
    raise NotImplementedError("for compiled code only")


@overload(floats)
def _floats(pool: Any, at: Any, count: Any, room: Any) -> Any:
    def as_it_is(pool: Any, at: Any, count: Any, room: Any) -> tuple[Any, int]:
        return pool, at

    def converted(pool: Any, at: Any, count: Any, room: Any) -> tuple[Any, int]:
        convert_row(pool, at, room, 0, count)
        return room, 0

    return as_it_is if pool.dtype == types.float32 else converted


def _halves(builder: Any, codes: _Row, i: Any, half: Any, lanes: int, *, packed: bool) -> tuple[Any, Any]:
    """Return the codes of elements ``i`` and ``i + half`` as float32."""
    if not packed:
        return codes.read(i, lanes), codes.read(builder.add(i, half), lanes)
    pair, wide = codes.codes(i, lanes), _wide(_I32, lanes)
    low = builder.and_(pair, ir.Constant(wide, [15] * lanes if lanes > 1 else 15))
    high = builder.lshr(pair, ir.Constant(wide, [4] * lanes if lanes > 1 else 4))
    return tuple(builder.sitofp(part, _wide(simd.F32, lanes)) for part in (low, high))


def _make_keys(*, packed: bool) -> Any:
    @intrinsic
    def keys_row(
        typing: Any,
        codes: Any,
        at: Any,
        least: Any,
        step: Any,
        cosine: Any,
        sine: Any,
        angle: Any,
        out: Any,
        out_at: Any,
        half: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            codes_, at_, least_, step_, cosine_, sine_, angle_, out_, out_at_, half_ = arguments
            zero = ir.Constant(_I64, 0)
            source, target = _Row(context, builder, codes, codes_, at_), _Row(context, builder, out, out_, out_at_)
            bases = [_Row(context, builder, kind, array, zero) for kind, array in ((least, least_), (step, step_))]
            turns = [_Row(context, builder, kind, array, angle_) for kind, array in ((cosine, cosine_), (sine, sine_))]

            def body(i: Any, lanes: int) -> None:
                places = i, builder.add(i, half_)
                pair = [
                    simd.multiply_add(builder, code, bases[1].read(place, lanes), bases[0].read(place, lanes))
                    for place, code in zip(
                        places, _halves(builder, source, i, half_, lanes, packed=packed), strict=True
                    )
                ]
                turned = _turned(builder, *pair, *(turn.read(i, lanes) for turn in turns))
                for place, value in zip(places, turned, strict=True):
                    target.write(place, value, lanes, finite=True)

            _strips(builder, half_, body, _CONVERTING)

        signature = types.void(codes, _WHOLE, least, step, cosine, sine, _WHOLE, out, _WHOLE, _WHOLE)
        return signature, generate

    return keys_row


def _make_values(*, packed: bool) -> Any:
    @intrinsic
    def values_row(typing: Any, codes: Any, at: Any, least: Any, step: Any, out: Any, out_at: Any, half: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            codes_, at_, least_, step_, out_, out_at_, half_ = arguments
            source, target = _Row(context, builder, codes, codes_, at_), _Row(context, builder, out, out_, out_at_)

            def body(i: Any, lanes: int) -> None:
                base, by = (simd.splat(builder, value, lanes) for value in (least_, step_))
                halves = _halves(builder, source, i, half_, lanes, packed=packed)
                for place, code in zip((i, builder.add(i, half_)), halves, strict=True):
                    target.write(place, simd.multiply_add(builder, code, by, base), lanes, finite=True)

            _strips(builder, half_, body, _CONVERTING)

        floating = types.float32
        return types.void(codes, _WHOLE, floating, floating, out, _WHOLE, _WHOLE), generate

    return values_row


#: Decode one key of ``2 * half`` codes (8 bits, or 4 of them packed), each channel with its own least value and step,
#: and turn it: codes, offset, least, step, cosine, sine, offset of the angles, out, offset, half.
keys_row_8 = _make_keys(packed=False)
keys_row_4 = _make_keys(packed=True)
#: Decode one value, all channels with one least value and step: codes, offset, least, step, out, offset, half.
values_row_8 = _make_values(packed=False)
values_row_4 = _make_values(packed=True)


def _make_dots(rows: int) -> Any:
    @intrinsic
    def dots(typing: Any, x: Any, x_at: Any, pool: Any, places: Any, count: Any, y: Any, y_at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            x_, x_at_, pool_, places_, count_, y_, y_at_ = arguments
            left = _Row(context, builder, x, x_, x_at_)
            right = [_Row(context, builder, pool, pool_, builder.extract_value(places_, row)) for row in range(rows)]
            zero = simd.constant(0.0, LANES)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(rows)]
            rests = [cgutils.alloca_once_value(builder, simd.constant(0.0)) for _ in range(rows)]

            def body(i: Any, lanes: int) -> None:
                factor = left.read(i, lanes)
                for row, total in zip(right, sums if lanes > 1 else rests, strict=True):
                    builder.store(simd.multiply_add(builder, factor, row.read(i, lanes), builder.load(total)), total)

            _strips(builder, count_, body)
            target = _Row(context, builder, y, y_, y_at_)
            for number in range(rows):
                place = ir.Constant(_I64, number)
                total = builder.fadd(simd.summed(builder, builder.load(sums[number])), builder.load(rests[number]))
                target.write(place, builder.fadd(target.read(place, 1), total), 1)

        return types.void(x, _WHOLE, pool, types.UniTuple(_WHOLE, rows), _WHOLE, y, _WHOLE), generate

    return dots


def _make_axpys(rows: int) -> Any:
    @intrinsic
    def axpys(typing: Any, factors: Any, pool: Any, places: Any, count: Any, out: Any, out_at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
            factors_, pool_, places_, count_, out_, out_at_ = arguments
            target = _Row(context, builder, out, out_, out_at_)
            source = [_Row(context, builder, pool, pool_, builder.extract_value(places_, row)) for row in range(rows)]

            def body(i: Any, lanes: int) -> None:
                total = target.read(i, lanes)
                for number, row in enumerate(source):
                    factor = simd.splat(builder, builder.extract_value(factors_, number), lanes)
                    total = simd.multiply_add(builder, factor, row.read(i, lanes), total)
                target.write(i, total, lanes)

            _strips(builder, count_, body)

        factors_kind = types.UniTuple(types.float32, rows)
        return types.void(factors_kind, pool, types.UniTuple(_WHOLE, rows), _WHOLE, out, _WHOLE), generate

    return axpys


#: ``y[y_at + j] += sum_i x[x_at + i] pool[places[j] + i]`` for four rows of a pool at once, or one: x, offset, pool,
#: places, count, y, offset.
dots_4, dots_1 = _make_dots(4), _make_dots(1)
#: ``out[out_at + i] += sum_j factors[j] pool[places[j] + i]``: factors, pool, places, count, out, offset.
axpys_4, axpys_1 = _make_axpys(4), _make_axpys(1)


@intrinsic
def soften_row(typing: Any, scores: Any, at: Any, count: Any, highest: Any, total: Any, shrink: Any, place: Any) -> Any:
    """One step of the online softmax along a row of scores, which become weights, in place.

    As :func:`memos_kernels.simd.soften`, whose state is read and written at ``place``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        scores_, at_, count_, highest_, total_, shrink_, place_ = arguments
        row = _Row(context, builder, scores, scores_, at_)
        state = [
            _Row(context, builder, kind, array, place_)
            for kind, array in ((highest, highest_), (total, total_), (shrink, shrink_))
        ]
        zero = ir.Constant(_I64, 0)
        old = state[0].read(zero, 1)
        most = {
            LANES: cgutils.alloca_once_value(builder, simd.splat(builder, old)),
            1: cgutils.alloca_once_value(builder, old),
        }

        def highest_of(i: Any, lanes: int) -> None:
            builder.store(simd.call(builder, "maxnum", builder.load(most[lanes]), row.read(i, lanes)), most[lanes])

        _strips(builder, count_, highest_of)
        new = simd.reduced(builder, builder.load(most[LANES]), lambda a, b: simd.call(builder, "maxnum", a, b))
        new = simd.call(builder, "maxnum", new, builder.load(most[1]))
        sums = {lanes: cgutils.alloca_once_value(builder, simd.constant(0.0, lanes)) for lanes in (LANES, 1)}

        def weigh(i: Any, lanes: int) -> None:
            weight = simd.exponential(builder, builder.fsub(row.read(i, lanes), simd.splat(builder, new, lanes)))
            row.write(i, weight, lanes)
            builder.store(builder.fadd(builder.load(sums[lanes]), weight), sums[lanes])

        _strips(builder, count_, weigh)
        less = simd.exponential(builder, builder.fsub(old, new))
        added = builder.fadd(simd.summed(builder, builder.load(sums[LANES])), builder.load(sums[1]))
        for part, value in zip(
            state, (new, simd.multiply_add(builder, state[1].read(zero, 1), less, added), less), strict=True
        ):
            part.write(zero, value, 1)

    return types.void(scores, _WHOLE, _WHOLE, highest, total, shrink, _WHOLE), generate


@intrinsic
def scale_row(typing: Any, row: Any, at: Any, count: Any, factor: Any, out: Any, out_at: Any) -> Any:
    """Write ``count`` elements times a factor; ``out`` may be ``row``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        row_, at_, count_, factor_, out_, out_at_ = arguments
        source, target = _Row(context, builder, row, row_, at_), _Row(context, builder, out, out_, out_at_)

        def body(i: Any, lanes: int) -> None:
            target.write(i, builder.fmul(source.read(i, lanes), simd.splat(builder, factor_, lanes)), lanes)

        _strips(builder, count_, body)

    return types.void(row, _WHOLE, _WHOLE, types.float32, out, _WHOLE), generate
