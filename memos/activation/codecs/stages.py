"""The last two stages of a codec chain, as small base classes: quantise, entropy-code.

A quantiser turns a layer into planes of small integers and what it needs to undo that; an entropy coder turns a plane
into bytes. What shortens the cache before is in :mod:`memos.activation.select` and :mod:`memos.activation.merge`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from memos.activation.codecs.base import Array

#: Elements of a plane larger than this in 16 bits cannot be stored.
HALF_MAX = 65504.0


class Size(NamedTuple):
    """The size of a layer ``[2, heads, tokens, head_dim]``, keys before values."""

    heads: int
    tokens: int
    head_dim: int


class Layout(NamedTuple):
    """A plane of integers: ``rows`` of ``columns``, each below ``2 ** bits`` (signed for an entropy coder)."""

    rows: int
    columns: int
    bits: int = 8


@dataclass(frozen=True, slots=True)
class Quantised:
    """A quantised layer: ``planes`` of integers ``[rows, columns]`` by name, and ``side`` arrays stored as they are."""

    planes: dict[str, Array]
    side: dict[str, Array] = field(default_factory=dict)


class Quantiser(ABC):
    """Turns a layer into integers. Stateless: one object serves many threads."""

    @abstractmethod
    def quantise(self, layer: torch.Tensor, index: int, layers: int) -> Quantised:
        """Quantise layer ``index`` of ``layers``, float32 ``[2, heads, tokens, head_dim]``, finite."""

    @abstractmethod
    def layout(self, side: Mapping[str, Array], size: Size) -> dict[str, Layout]:
        """Return the planes of a layer. Raises ``ValueError`` when ``side`` cannot belong to it."""

    @abstractmethod
    def dequantise(self, planes: Mapping[str, Array], side: Mapping[str, Array], size: Size) -> torch.Tensor:
        """Return the layer, float32 ``[2, heads, tokens, head_dim]``. Raises ``ValueError`` like :meth:`layout`."""


class EntropyCoder(ABC):
    """Turns a plane of integers into one array, exactly."""

    @abstractmethod
    def encode(self, plane: Array, layout: Layout) -> Array:
        """Return the coded plane."""

    @abstractmethod
    def decode(self, coded: Array, layout: Layout) -> Array:
        """Return the plane ``[rows, columns]``. Raises ``ValueError`` when ``coded`` is not one of that layout."""


def side_array(side: Mapping[str, Array], name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> Array:
    """Return a side array. Raises ``ValueError`` unless it has this dtype and shape and, as floats, is finite."""
    array = side.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is not {np.dtype(dtype)} {list(shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array


def half(values: torch.Tensor) -> torch.Tensor:
    """Return float16. Raises ``ValueError`` for values out of its range."""
    if values.numel() and values.abs().max() > HALF_MAX:
        raise ValueError("the cache holds values too large to be quantised")
    return values.half()


def floats(array: Array) -> torch.Tensor:
    """Return an array as a float32 tensor of its own."""
    return torch.from_numpy(array.astype(np.float32))
