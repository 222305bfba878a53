"""A codec made of a quantiser and an entropy coder, the last two stages of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memos.activation.codecs.base import Array, LayerCodec, LayerDecoder
from memos.activation.codecs.stages import EntropyCoder, Quantiser, Size
from memos.activation.kv import KVShape

#: What keeps the names of planes apart from those of side arrays.
_SIDE = "side."


class ChainCodec(LayerCodec):
    """quantise → entropy-code, by the name ``spec``."""

    def __init__(self, spec: str, quantiser: Quantiser, coder: EntropyCoder) -> None:
        self._spec = spec
        self._quantiser = quantiser
        self._coder = coder

    @property
    def spec(self) -> str:
        """The name it was made by, with every option that is not the default."""
        return self._spec

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder."""
        return _ChainDecoder(self._quantiser, self._coder, Size(shape.heads, tokens, shape.head_dim))

    def encode_layer(self, layer: torch.Tensor, index: int, layers: int) -> dict[str, Array]:
        """Encode a layer. Raises ``ValueError`` if it holds NaN or infinity."""
        values = layer.float()
        if not torch.isfinite(values).all():
            raise ValueError("a cache with NaN or infinity cannot be quantised")
        quantised = self._quantiser.quantise(values, index, layers)
        layout = self._quantiser.layout(quantised.side, Size(*layer.shape[1:]))
        parts = {name: self._coder.encode(plane, layout[name]) for name, plane in quantised.planes.items()}
        return parts | {_SIDE + name: array for name, array in quantised.side.items()}


@dataclass(frozen=True, slots=True)
class _ChainDecoder(LayerDecoder):
    quantiser: Quantiser
    coder: EntropyCoder
    size: Size

    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Decode the planes and undo the quantiser."""
        if out.shape != (2, *self.size):
            raise ValueError(f"a layer of {list(self.size)} does not fit {list(out.shape)}")
        side = {name.removeprefix(_SIDE): array for name, array in parts.items() if name.startswith(_SIDE)}
        planes = {}
        for name, layout in self.quantiser.layout(side, self.size).items():
            if name not in parts:
                raise ValueError(f"the layer has no plane {name}")
            planes[name] = self.coder.decode(parts[name], layout)
        out.copy_(self.quantiser.dequantise(planes, side, self.size))
