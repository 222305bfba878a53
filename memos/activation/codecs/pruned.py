"""A codec behind a policy: what the policy leaves of each head is encoded, and nothing else.

    shared     kept    uint8 [layers, heads, tokens / 8]: bit sets of the tokens that have an entry
               counts  a zstd frame of uint16 [entries], where entries stand for several tokens
    a layer    base    float32 [1]: what keys were rotated back by before they were encoded, 0 for not at all
               N.*     what the codec behind made of the Nth run of heads with equally many entries

Keys of a lossy codec are rotated back to position 0 by their own positions, which no codec could know any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from memos.activation.codecs.base import Array, Codec, Encoded, LayerCodec, LayerDecoder, RaggedDecoder
from memos.activation.codecs.rope import angles, likely_base, rotate
from memos.activation.codecs.runs import Run, numbered, of_number, runs_of
from memos.activation.codecs.stages import side_array
from memos.activation.kv import KVBlock, KVShape
from memos.activation.ragged import MOST_MERGED, RaggedLayout
from memos.activation.select.base import Policy, Pruned
from memos_kernels import rotate_keys


class PrunedCodec(Codec):
    """``policy`` before ``inner``; ``spec`` names both."""

    def __init__(self, spec: str, policy: Policy, inner: LayerCodec) -> None:
        self._spec = spec
        self._policy = policy
        self._inner = inner
        self.needs = policy.needs

    @property
    def spec(self) -> str:
        """The names of policy and codec."""
        return self._spec

    def encode(self, kv: KVBlock) -> Encoded:
        """Encode what the policy leaves. Raises ``ValueError``."""
        pruned = self._policy.prune(kv)
        kept = pruned.kept.numpy()
        layers = [self._layer(pruned.data[index], kept[index], index, len(kept)) for index in range(len(kept))]
        return Encoded(tuple(layers), {"kept": np.packbits(kept, axis=-1)} | _counts(pruned))

    def decoder(
        self, shape: KVShape, tokens: int, shared: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> LayerDecoder:
        """Return the decoder, a :class:`RaggedDecoder`."""
        packed = side_array(shared, "kept", np.uint8, (shape.layers, shape.heads, -(-tokens // 8)))
        kept = np.unpackbits(packed, axis=-1, count=tokens).astype(bool)
        return _Decoder(RaggedLayout(kept, _counted(shared, int(kept.sum()))), self._inner, shape)

    def _layer(self, layer: torch.Tensor, kept: NDArray[np.bool_], index: int, layers: int) -> dict[str, Array]:
        base = 0.0
        if not self._inner.exact:
            base = likely_base(layer[0].float())
            layer = torch.stack([rotate(layer[0].float(), base, back=True), layer[1].float()])
        parts: dict[str, Array] = {"base": np.array([base], np.float32)}
        for number, run in enumerate(runs_of(kept.sum(-1).tolist())):
            mine = torch.from_numpy(kept[run.first : run.stop])
            entries = layer[:, run.first : run.stop][:, mine].unflatten(1, (-1, run.size))
            encoded = self._inner.encode_layer(entries, index, layers)
            parts |= numbered(number, encoded)
        return parts


@dataclass(frozen=True)
class _Decoder(RaggedDecoder):
    layout: RaggedLayout
    inner: Codec
    shape: KVShape

    def decode(self, layer: int, parts: Mapping[str, Array], out: torch.Tensor) -> None:
        """Decode run after run, and turn keys to their positions."""
        kept = self.layout.kept[layer]
        if out.shape != (2, int(kept.sum()), self.shape.head_dim):
            raise ValueError(f"a layer of {int(kept.sum())} entries does not fit {list(out.shape)}")
        base = float(side_array(parts, "base", np.float32, (1,))[0])
        if base < 0 or (base and (self.shape.head_dim % 2 or self.inner.exact)):
            raise ValueError("no rotary base")
        positions, end = self.layout.positions(layer), 0
        for number, run in enumerate(runs_of(kept.sum(-1).tolist())):
            start, end = end, end + (run.stop - run.first) * run.size
            entries = self._run(number, run, parts)
            if base:
                entries[0] = self._turned(entries[0], positions[start:end], base)
            out[:, start:end] = entries

    def _run(self, number: int, run: Run, parts: Mapping[str, Array]) -> torch.Tensor:
        """Return the entries of a run, ``[2, entries of all its heads, head_dim]``."""
        dtype = self.shape.dtype if self.inner.exact else "float32"
        shape = KVShape(1, run.stop - run.first, self.shape.head_dim, dtype)
        entries = shape.empty(run.size)[0]
        self.inner.decoder(shape, run.size, {}, {}).decode(0, of_number(number, parts), entries)
        return entries.flatten(1, 2)

    def _turned(self, keys: torch.Tensor, positions: NDArray[np.int64], base: float) -> torch.Tensor:
        cosine, sine = angles(self.layout.kept.shape[2], keys.shape[1], base)
        at = torch.from_numpy(positions)
        return rotate_keys(keys.unsqueeze(0), cosine[at], sine[at])[0]


def _counts(pruned: Pruned) -> dict[str, Array]:
    if pruned.counts is None:
        return {}
    counts = pruned.counts[pruned.kept].clamp_max(MOST_MERGED).numpy().astype(np.uint16)
    return {"counts": np.frombuffer(zstandard.compress(counts.tobytes(), 9), np.uint8)}


def _counted(shared: Mapping[str, Array], entries: int) -> NDArray[np.uint16] | None:
    frame = shared.get("counts")
    if frame is None:
        return None
    if frame.dtype != np.uint8 or frame.ndim != 1:
        raise ValueError("counts are not a line of bytes")
    try:
        data = zstandard.ZstdDecompressor().decompress(frame.tobytes(), max_output_size=2 * entries)
    except zstandard.ZstdError as error:
        raise ValueError(f"the counts cannot be decompressed: {error}") from error
    counts = np.frombuffer(data, np.uint16)
    if len(counts) != entries or not counts.all():
        raise ValueError("the counts are not one for each entry")
    return counts
