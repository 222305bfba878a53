"""Ranks in the order of what they matter, so that the last ones can be dropped."""

from __future__ import annotations

import dataclasses

from memos.parametric.adapter import Adapter, Factors
from memos.parametric.fusion.lowrank import Keep, low_rank


def ordered(adapter: Adapter) -> Adapter:
    """Return an equal adapter whose ranks are in descending singular value.

    The first ``k`` rows of every down and columns of every up, with the scaling as it is, are then the best adapter of
    rank ``k``. Dtypes stay, so that it is equal but for one rounding to them: about 1e-6 in float32, 3e-3 in bfloat16.
    Raises :class:`AdapterRefused` if what it adds is not finite in float32.
    """
    return _reduced(adapter, Keep())


def truncate(adapter: Adapter, rank: int) -> Adapter:
    """Return the best adapter of at most ``rank`` in every module (Eckart-Young), its ranks ordered.

    Raises :class:`InvalidInput` for a rank below 1, and :class:`AdapterRefused` as :func:`ordered` does.
    """
    return _reduced(adapter, Keep(rank))


def _reduced(adapter: Adapter, keep: Keep) -> Adapter:
    factors = {place: _of_module(one, keep) for place, one in adapter.sorted()}
    return dataclasses.replace(adapter, factors=factors)


def _of_module(factors: Factors, keep: Keep) -> Factors:
    made, dtype = low_rank(factors.up.float(), factors.down.float(), keep), factors.down.dtype
    return Factors(made.down.to(dtype).contiguous(), made.up.to(dtype).contiguous(), made.scaling * factors.scaling)
