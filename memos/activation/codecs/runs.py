"""Runs of neighbouring heads that are encoded together, each under a number of its own in a layer's parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from memos.activation.codecs.base import Array


class Run(NamedTuple):
    """Neighbouring heads ``first .. stop - 1``, of which each has ``size`` entries, or axes."""

    first: int
    stop: int
    size: int


def runs_of(sizes: Sequence[int]) -> Iterator[Run]:
    """Yield the runs of heads of equal sizes, but for those of size 0."""
    at = 0
    for size, heads in groupby(sizes):
        first, at = at, at + len(list(heads))
        if size:
            yield Run(first, at, size)


def numbered(number: int, encoded: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of a run as parts of a layer."""
    return {f"{number}.{name}": array for name, array in encoded.items()}


def of_number(number: int, parts: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of a run from the parts of a layer."""
    return {name.split(".", 1)[1]: part for name, part in parts.items() if name.startswith(f"{number}.")}
